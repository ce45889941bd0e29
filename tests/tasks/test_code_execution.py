"""Code execution: programs against two interpreters, their statistics, and the metrics."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fwp_rl.config import ConfigError
from fwp_rl.tasks import TASKS, TaskBatch, code_execution
from fwp_rl.tasks.code_execution import CodeExecution, CodeExecutionConfig
from fwp_rl.types import State


def opened(count: int = 50, **options: Any) -> CodeExecution:
    """A task of which the test set is looked at."""
    return CodeExecutionConfig(train_size=1, validation_size=1, test_size=count, **options).open(0)


def programs(task: CodeExecution) -> Iterator[tuple[list[str], list[str]]]:
    """The words of each program of the test set, and its answers."""
    for batch in task.batches("test"):
        for column, length in enumerate(batch.mask.sum(0)):
            assert batch.mask[:length, column].all()
            words = [task.symbols[n] for n in batch.input[:length, column].tolist()]
            yield words, [task.answers[n] for n in batch.target[:length, column].tolist()]


def executed(words: list[str], low: int = -8, high: int = 16) -> list[str]:
    """What is answered to each word, by the rules of the released generator: one statement after
    another, with what it may not do refused."""
    value: dict[str, int] = {}
    answers: list[str] = []
    while words:
        conditional = words[0] == "if"
        carried_out = True
        if conditional:
            (_, name, sign, bound, colon), words = words[:5], words[5:]
            assert colon == ":"
            carried_out = value[name] < int(bound) if sign == "<" else value[name] > int(bound)
            answers += ["_"] * 5
        end = words.index(";") + 1
        statement, words = words[:end], words[end:]
        answers += ["_"] * end
        match statement:
            case ["print", name, ";"]:
                if carried_out:
                    answers[-1] = str(value[name])
                else:
                    assert name in value
            case [name, ("++" | "--") as sign, ";"]:
                after = value[name] + (1 if sign == "++" else -1)
                assert low <= after <= high
                value[name] = after if carried_out else value[name]
            case [name, "=", number, ";"] if number.isdigit():
                if carried_out and not (conditional and name in value):
                    value[name] = int(number)
            case _:
                pytest.fail(f"{statement} is no statement")
    return answers


def printed_by_python(words: list[str]) -> list[str]:
    source = " ".join(words).replace("++", "+= 1").replace("--", "-= 1").replace(" ;", "\n")
    source = re.sub(r"print (\w)", r"said.append(str(\1))", source)
    said: list[str] = []
    exec("\n".join(line.strip() for line in source.splitlines()), {"said": said})
    return said


@pytest.mark.parametrize("variables", [1, 3, 5])
@pytest.mark.parametrize("statements", [2, 7, 100])
def test_answers_are_what_the_program_prints(variables: int, statements: int) -> None:
    for words, answers in programs(opened(variables=variables, statements=statements)):
        assert words[1] == "="
        assert words[-3] == "print"
        assert words.count(";") == statements
        assert answers == executed(words)


def test_with_conditional_reassignment_python_prints_the_same() -> None:
    different = 0
    for words, answers in programs(opened(count=100, conditional_reassignment=True)):
        assert [x for x in answers if x != "_"] == printed_by_python(words)
        different += answers != executed(words)
    assert different > 60  # the released rule is another one


def test_values_turn_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program seldom comes to -8 and 16: ends that it often comes to."""
    monkeypatch.setattr(code_execution, "LOW", -1)
    monkeypatch.setattr(code_execution, "HIGH", 10)
    words = Counter[str]()
    for program, answers in programs(opened(count=200)):
        assert answers == executed(program, -1, 10)
        words.update(answers)
    assert min(words["-1"], words["10"]) > 20
    assert len(words) == 13


@pytest.mark.parametrize(("variables", "vocabulary"), [(3, 22), (5, 24)])
def test_programs_are_as_those_of_the_released_generator(variables: int, vocabulary: int) -> None:
    """Its figures, of 2,000 programs: 456 tokens, 377 to 542; 29.1 printed values; 22 to 23 answers
    that occur. The means have standard errors of 0.6 and 0.1 here."""
    task = opened(count=2000, variables=variables)
    found = list(programs(task))
    lengths = [len(words) for words, _ in found]
    assert np.mean(lengths) == pytest.approx(456, abs=2.5)
    assert 360 < min(lengths) < 395
    assert 520 < max(lengths) < 560
    printed = [len(answers) - answers.count("_") for _, answers in found]
    assert np.mean(printed) == pytest.approx(29.1, abs=0.5)
    used = {word for words, _ in found for word in words}
    assert used == set(task.symbols)
    assert len(used) == vocabulary
    assert 21 <= len({x for _, answers in found for x in answers}) <= 24


def test_statements_are_of_each_kind_alike() -> None:
    text = [" ".join(words).split(" ;")[1:-2] for words, _ in programs(opened(count=400))]
    statements = [statement.strip() for program in text for statement in program]
    conditional = [x.split(" : ")[1] for x in statements if x.startswith("if")]
    plain = [x for x in statements if not x.startswith("if")]
    assert len(conditional) / len(statements) == pytest.approx(1 / 4, abs=0.01)
    for some in (plain, conditional):
        kinds = Counter(next(k for k in ("print", "=", "++", "--") if k in x) for x in some)
        assert kinds["print"] / len(some) == pytest.approx(1 / 3, abs=0.02)
        assert kinds["="] / len(some) == pytest.approx(1 / 3, abs=0.02)
        assert kinds["++"] / len(some) == pytest.approx(1 / 6, abs=0.02)
    numbers = Counter(x.split()[-1] for x in statements if "=" in x)
    assert set(numbers) == set("0123456789")
    assert max(numbers.values()) < 1.3 * min(numbers.values())


class Interpreter(nn.Module):
    """A model that executes the programs, but for one print, where it says something else."""

    def __init__(self, task: CodeExecution, wrong: int) -> None:
        super().__init__()
        self.task, self.wrong = task, wrong
        self.weight = nn.Parameter(torch.zeros(1))

    def initial_state(self, batch_size: int, device: torch.device) -> State:
        return ()

    def forward(self, symbols: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        logits = torch.zeros(*symbols.shape, self.task.outputs)
        for column in range(symbols.shape[1]):
            words = [self.task.symbols[n] for n in symbols[:, column].tolist()]
            while words[-1] != ";":  # padding
                words.pop()
            answers = [self.task.answers.index(x) for x in executed(words)]
            if self.wrong:
                answers[-1] = answers[-1] % 25 + 1
                self.wrong -= 1
            logits[range(len(answers)), column, answers] = 10
        return logits, state


def test_metrics_are_of_prints_tokens_and_whole_programs() -> None:
    task = opened(count=40, statements=10)
    found = list(programs(task))
    prints = sum(len(answers) - answers.count("_") for _, answers in found)
    tokens = sum(len(words) for words, _ in found)
    for wrong in (0, 3):
        metrics = task.evaluate(Interpreter(task, wrong), "test")
        assert metrics["print_accuracy"] == pytest.approx(1 - wrong / prints)
        assert metrics["accuracy"] == pytest.approx(1 - wrong / tokens)
        assert metrics["sequence_accuracy"] == pytest.approx(1 - wrong / 40)
    assert task.measure in metrics


def test_every_token_is_asked_for() -> None:
    task: CodeExecution = CodeExecutionConfig(train_size=30, statements=6).open(0)
    batch: TaskBatch = task.batch(0, 16)
    length = torch.from_numpy(np.sort(task.sets["train"].length))
    assert batch.mask.sum(0).max() <= length.max()
    assert (batch.mask.int().diff(dim=0) <= 0).all()


def test_it_is_found_by_name_and_says_which_task_it_is() -> None:
    assert TASKS["code-execution"] is CodeExecutionConfig
    others = {"variables": 5}, {"statements": 25}, {"conditional_reassignment": True}
    titles = [CodeExecutionConfig(**options).title() for options in ({}, *others)]  # type: ignore[arg-type]
    assert titles[0] == "code_execution, 3 variables"
    assert len(set(titles)) == 4
    with pytest.raises(ConfigError, match="variables: got 6, expected 1 to 5"):
        CodeExecutionConfig(variables=6)
