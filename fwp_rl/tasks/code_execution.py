"""Code execution: read a program token by token, and say at each print what it prints.

Irie et al., "Going Beyond Linear Transformers with Recurrent Fast Weight Programmers" (2021), after
Fan et al., "Addressing Some Limitations of Transformers with Feedback Memory" (2020); the rules are
those of the authors' released generator. A program is a row of statements, of four kinds with the
same probability:

    x = 3 ;                assignment: any variable, 0 to 9
    x ++ ;   x -- ;        increment or decrement of a defined variable; the other one where the
                           value would leave [-8, 16]
    print x ;              of a defined variable
    if x < 3 : ...         a defined variable, < or >, 0 to 9; then a statement of one of the three
                           kinds above, carried out where the condition holds

The first statement is an assignment, the last a print. An answer is asked at every token: the value
at the ``;`` that ends a print which is carried out, ``_`` everywhere else.

A conditional assignment defines a variable that is not yet defined; one that is keeps its value,
whatever the condition says. So has the authors' generator it, and their published figures with it.
``conditional_reassignment`` changes the value, as Python would.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fwp_rl.config import Range
from fwp_rl.tasks.base import TASKS, Split, TaskBatch
from fwp_rl.tasks.stored import Sequences, StoredTask, StoredTaskConfig
from fwp_rl.tasks.symbols import accuracies

__all__ = ["CodeExecution", "CodeExecutionConfig"]

LOW, HIGH = -8, 16
"""The values that a variable may have."""

_NAMES: Final = "xyzab"
_SIGNS: Final = ("=", ";", "++", "--", "print", "if", "<", ">", ":")
_ASSIGN, _STEP, _PRINT, _CONDITIONAL = range(4)
_NO_VALUE: Final = 0
"""The answer ``_``; a value has the number value - LOW + 1."""
_LONGEST: Final = 9
"""Tokens of the longest statement: five of a condition, four of an assignment."""

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@TASKS.register("code_execution")
@dataclass(frozen=True, kw_only=True)
class CodeExecutionConfig(StoredTaskConfig):
    """Read a program, say what each print prints."""

    variables: Annotated[int, Range(1, len(_NAMES))] = 3
    """Variables of a program; the paper has 3 and 5."""
    statements: Annotated[int, Range(2, 10_000)] = 100
    """Statements of a program, about 4.6 tokens each."""
    conditional_reassignment: bool = False
    """Let ``if x < 3 : y = 5 ;`` change a y that has a value, where the condition holds. The
    authors' generator does not."""

    def title(self) -> str:
        statements = "" if self.statements == 100 else f", {self.statements} statements"
        rule = ", conditional reassignment" * self.conditional_reassignment
        return f"code_execution, {self.variables} variables{statements}{rule}"

    def score_bounds(self) -> tuple[float, float]:
        return 0.0, 1.0

    def open(self, seed: int, artifacts: Mapping[str, bytes] | None = None) -> "CodeExecution":
        return CodeExecution(self, seed)


class CodeExecution(StoredTask):
    """Programs and what they print. The score is the share of programs with all answers right."""

    measure: ClassVar[str] = "sequence_accuracy"

    def __init__(self, config: CodeExecutionConfig, seed: int) -> None:
        self.config = config
        self.symbols = (*_NAMES[: config.variables], *map(str, range(10)), *_SIGNS)
        """How the symbols are written."""
        self.answers = ("_", *map(str, range(LOW, HIGH + 1)))
        """How the answers are written."""
        self.inputs, self.outputs = len(self.symbols), len(self.answers)
        super().__init__(config, seed, lambda draw, count: _Writer(config, draw, count).write())

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """``print_accuracy`` is of the prints that are carried out alone."""
        return accuracies(model, self.batches(split), some={"print_accuracy": _prints})


def _prints(batch: TaskBatch) -> Tensor:
    return batch.target != _NO_VALUE


class _Writer:
    """Writes N programs at once, statement by statement, and carries them out meanwhile."""

    def __init__(self, config: CodeExecutionConfig, draw: np.random.Generator, count: int) -> None:
        self.config, self.draw, self.count = config, draw, count
        self.rows = np.arange(count)
        self.value = np.zeros((count, config.variables), np.int64)
        self.defined = np.zeros((count, config.variables), np.bool_)
        self.digit = config.variables
        self.sign = {name: config.variables + 10 + i for i, name in enumerate(_SIGNS)}

    def write(self) -> Sequences:
        last = self.config.statements - 1
        kinds = self.draw.integers(4, size=(last + 1, self.count))
        kinds[0], kinds[last] = _ASSIGN, _PRINT
        # a statement's tokens, -1 in those places that it does not need
        tokens = np.full((self.count, last + 1, _LONGEST), -1, np.int8)
        answers = np.full_like(tokens, _NO_VALUE)
        for n, kind in enumerate(kinds):
            conditional = kind == _CONDITIONAL
            holds = self._condition(tokens[:, n, :5], conditional)
            kind = np.where(conditional, self.draw.integers(3, size=self.count), kind)
            self._statement(tokens[:, n, 5:], answers[:, n, 7], kind, conditional, holds)
        used = tokens >= 0
        return Sequences(
            input=tokens[used], target=answers[used], length=used.sum((1, 2), dtype=np.int64)
        )

    def _condition(self, tokens: NDArray[np.int8], conditional: Flags) -> Flags:
        """Write ``if x < 3 :`` where there is a condition; whether the statement is carried out."""
        variable, bound = self._defined_variable(), self.draw.integers(10, size=self.count)
        less = self.draw.integers(2, size=self.count) == 0
        value = self.value[self.rows, variable]
        sign = np.where(less, self.sign["<"], self.sign[">"])
        tokens[:, 0], tokens[:, 1], tokens[:, 2] = self.sign["if"], variable, sign
        tokens[:, 3], tokens[:, 4] = self.digit + bound, self.sign[":"]
        tokens[~conditional] = -1
        return ~conditional | np.where(less, value < bound, value > bound)

    def _statement(
        self,
        tokens: NDArray[np.int8],
        answer: NDArray[np.int8],
        kind: Ints,
        conditional: Flags,
        carried_out: Flags,
    ) -> None:
        """Write a statement without its condition, and carry it out."""
        assign, step, prints = (kind == k for k in (_ASSIGN, _STEP, _PRINT))
        any_variable = self.draw.integers(self.config.variables, size=self.count)
        variable = np.where(assign, any_variable, self._defined_variable())
        number = self.draw.integers(10, size=self.count)
        value = self.value[self.rows, variable]
        change = 2 * self.draw.integers(2, size=self.count) - 1
        stays = (value + change >= LOW) & (value + change <= HIGH)
        change = np.where(stays, change, -change)

        word = self.sign
        changed = np.where(change > 0, word["++"], word["--"])
        tokens[:, 0] = np.where(prints, word["print"], variable)
        tokens[:, 1] = np.where(prints, variable, np.where(assign, word["="], changed))
        tokens[:, 2] = np.where(assign, self.digit + number, word[";"])
        tokens[:, 3] = np.where(assign, word[";"], -1)

        answer[:] = np.where(prints & carried_out, value - LOW + 1, _NO_VALUE)
        sets = assign & carried_out
        if not self.config.conditional_reassignment:
            sets &= ~(conditional & self.defined[self.rows, variable])
        value = np.where(sets, number, np.where(step & carried_out, value + change, value))
        self.value[self.rows, variable] = value
        self.defined[self.rows, variable] |= sets

    def _defined_variable(self) -> Ints:
        """One of each program's defined variables, the first where there is none yet."""
        count = self.defined.sum(1)
        chosen = (self.draw.random(self.count) * count).astype(np.int64)
        order: Ints = (self.defined.cumsum(1) > chosen[:, None]).argmax(1)
        return order
