"""What all tasks share that are trained short and tested long."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fwp_rl.config import ConfigError
from fwp_rl.cores import CORES
from fwp_rl.tasks import TASKS, Task, TaskBatch
from fwp_rl.types import State

LONG = ("associative_recall", "copy", "selective_copy", "parity", "modular_counting")
LONG += ("permutations",)


def config_of(name: str, **options: Any) -> Any:
    return TASKS[name](**options)


def same(a: TaskBatch, b: TaskBatch) -> bool:
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for name in ("input", "target", "mask", "reset")
    )


class Constant(nn.Module):
    """Gives one answer, whatever it reads."""

    def __init__(self, answers: int, answer: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.eye(answers)[answer])

    def initial_state(self, batch_size: int, device: object = None) -> State:
        return ()

    def forward(self, symbols: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        return self.logits.expand(*symbols.shape, -1), state


def answers_of(task: Task) -> int:
    return int(task.outputs)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", LONG)
def test_a_batch_is_a_function_of_seed_step_and_size(name: str) -> None:
    config = config_of(name)
    task, again, other = config.open(3), config.open(3), config.open(4)
    batch = task.batch(7, 16)
    again.batch(2, 5)
    assert same(batch, again.batch(7, 16))
    assert not same(batch, task.batch(8, 16))
    assert not same(batch, other.batch(7, 16))


@pytest.mark.parametrize("name", LONG)
def test_a_batch_keeps_to_the_contract(name: str) -> None:
    task = config_of(name).open(1)
    batch = task.batch(0, 16)
    shape = batch.input.shape
    assert shape[1] == 16
    assert batch.target.shape == batch.mask.shape == batch.reset.shape == shape
    assert batch.input.dtype == batch.target.dtype == torch.int64
    assert batch.mask.dtype == batch.reset.dtype == torch.bool
    assert batch.reset[0].all()
    assert not batch.reset[1:].any()
    assert 0 <= int(batch.input.min()) <= int(batch.input.max()) < task.inputs
    asked = batch.target[batch.mask]
    assert 0 <= int(asked.min()) <= int(asked.max()) < task.outputs
    assert batch.mask.any(0).all()


@pytest.mark.parametrize("name", LONG)
def test_lengths_of_training_are_uniform_from_the_shortest_to_the_longest(name: str) -> None:
    config = config_of(name, length=12, min_length=9)
    task = config.open(1)
    steps = np.array([len(task.batch(step, 1).input) for step in range(400)])
    longest = len(config_of(name, length=12).open(1).batch(0, 1).input)
    counts = np.bincount(longest - steps)
    assert len(counts) == 4
    # 100 each is expected, and 9 is a standard deviation
    assert abs(counts - 100).max() < 45


@pytest.mark.parametrize("name", LONG)
def test_the_test_is_made_at_each_length_and_validation_at_one(name: str) -> None:
    config = config_of(
        name, length=10, test_lengths=(1, 3), validation_sequences=130, test_sequences=40
    )
    task = config.open(1)
    model = Constant(answers_of(task), 0)
    with torch.no_grad():
        validation, test = task.evaluate(model, "validation"), task.evaluate(model, "test")
    assert set(validation) == {"accuracy", "sequence_accuracy", "loss"}
    lengths = {"accuracy_at_10", "accuracy_at_30", "long_accuracy"}
    assert set(test) == set(validation) | lengths
    assert test["accuracy"] == test["accuracy_at_10"]
    assert test["long_accuracy"] == test["accuracy_at_30"]
    sizes = [batch.input.shape[1] for batch in task.batches("validation")]
    assert sizes == [128, 2]
    drawn = [*task.batches("validation"), *task.batches("test")]
    drawn += [task.batch(step, 128) for step in range(3)]
    columns = {tuple(batch.input[:, 0].tolist()) for batch in drawn}
    # what is drawn for one purpose is drawn for no other
    assert len(columns) >= (3 if name == "parity" else len(drawn))
    longer = [len(batch.input) for batch in task.batches_at("test", 30)]
    assert longer == [len(next(iter(task.batches("test"))).input) + 20]


@pytest.mark.parametrize("name", LONG)
def test_the_score_does_not_need_the_training_length_among_those_of_the_test(name: str) -> None:
    config = config_of(name, length=9, test_lengths=(2,), test_sequences=8)
    task = config.open(1)
    with torch.no_grad():
        test = task.evaluate(Constant(answers_of(task), 0), "test")
    assert test["long_accuracy"] == test["accuracy_at_18"]
    assert "accuracy_at_9" not in test
    assert 0 <= test["accuracy"] <= 1


@pytest.mark.parametrize("name", LONG)
def test_no_constant_answer_beats_chance_and_one_reaches_it(name: str) -> None:
    config = config_of(name, test_sequences=2000, test_lengths=(1,))
    task = config.open(1)
    answers = range(answers_of(task))
    with torch.no_grad():
        found = [task.evaluate(Constant(len(answers), a), "test")["accuracy"] for a in answers]
    chance, best = config.score_bounds()
    assert best == 1
    # 2,000 sequences and a few answers: five standard errors of a mean over sequences
    assert max(found) == pytest.approx(chance, abs=5 * np.sqrt(chance * (1 - chance) / 2000))
    assert sum(found) == pytest.approx(1)


@pytest.mark.parametrize("name", LONG)
def test_any_core_reads_a_task(name: str) -> None:
    task = config_of(name, embedding_size=12).open(1)
    model = task.model(CORES["lstm"](hidden_size=8))
    batch = task.batch(0, 4)
    state = model.initial_state(4)  # type: ignore[operator]
    losses, _ = task.loss(model, batch, state)
    assert losses.loss.shape == batch.input.shape
    losses.reduce(batch.mask.sum()).backward()
    gradient = model.embedding.weight.grad  # type: ignore[union-attr]
    assert isinstance(gradient, Tensor)
    assert gradient.shape == (task.inputs, 12)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"length": 0}, "length: got 0, expected 1 to"),
        ({"length": 8, "min_length": 9}, "min_length: got 9, expected at most length = 8"),
        ({"test_lengths": ()}, r"test_lengths: got \[\], expected one or more numbers, ascending"),
        ({"test_lengths": (4, 2)}, r"test_lengths: got \[4, 2\], expected .* ascending"),
        ({"test_lengths": (1, 1)}, r"test_lengths: got \[1, 1\], expected .* ascending"),
        ({"test_lengths": (0, 1)}, "test_lengths: got 0, expected 1 to"),
        ({"test_sequences": 0}, "test_sequences: got 0, expected 1 to"),
        ({"embedding_size": 0}, "embedding_size: got 0, expected 1 to"),
    ],
)
def test_lengths_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of("parity", **options)


def test_chance_at_a_longer_length_is_nearer_to_that_of_a_guess() -> None:
    config = config_of("modular_counting", length=4, steps="signs")
    assert 1 / 5 < config.chance_at(64) < config.chance_at(8) < config.score_bounds()[0]
    assert replace(config, steps="digits").chance_at(4) == pytest.approx(1 / 5)
