"""Sequential ListOps: read a nested expression token by token, and say its value at the end.

    [MAX 2 9 [MIN 4 7 ] 0 ]   is 9

Nangia and Bowman, "ListOps: A Diagnostic Dataset for Latent Tree Learning" (2018), as changed in
Irie et al., "Going Beyond Linear Transformers with Recurrent Fast Weight Programmers" (2021). The
root is an operation, MIN, MAX or FIRST, with 2 to 5 arguments, all uniform. An argument is a digit
with probability 0.75, else an operation. Of these trees those are kept in which exactly ``depth``
operations lie within each other at the deepest place.

A deep tree is rare: rejection would make 12,000 trees of depth 15 from millions. Here none is
rejected. With a(m) the probability that an argument has at most m operations within each other,

    a(-1) = 0;   a(0) = 0.75;   a(m) = 0.75 + 0.25 mean over n = 2 ... 5 of a(m - 1)^n

an operation that has to reach depth m exactly has n arguments with a probability proportional to
a(m - 1)^n - a(m - 2)^n, and one that may not exceed it to a(m - 1)^n. Whether an argument is the
one that reaches m - 1 follows in the same way, from left to right. The trees are distributed as
those that rejection keeps; all of a level are drawn at once.

The authors' recursion ends at level 20, which no tree of at most 18 operations within each other
meets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray

from fwp_rl.config import Range
from fwp_rl.tasks.base import TASKS
from fwp_rl.tasks.stored import NOTHING, Sequences, StoredTask, StoredTaskConfig

__all__ = ["ListOps", "ListOpsConfig"]

SYMBOLS: Final = (*map(str, range(10)), "[MIN", "[MAX", "[FIRST", "]")
_MIN, _MAX, _FIRST, _CLOSE = range(10, 14)
_DIGIT: Final = 0.75
"""Probability that an argument is a digit."""
_ARGUMENTS: Final = np.arange(2, 6)

Ints = NDArray[np.int64]
Floats = NDArray[np.floating]
Flags = NDArray[np.bool_]


@TASKS.register("list_ops")
@dataclass(frozen=True, kw_only=True)
class ListOpsConfig(StoredTaskConfig):
    """Read a nested expression of MIN, MAX and FIRST, say its value at its end."""

    depth: Annotated[int, Range(1, 18)] = 10
    """Operations within each other at the deepest place of each expression; the paper has 10 and
    15."""

    def title(self) -> str:
        return f"list_ops, depth {self.depth}"

    def score_bounds(self) -> tuple[float, float]:
        return 0.1, 1.0

    def open(self, seed: int, artifacts: Mapping[str, bytes] | None = None) -> "ListOps":
        return ListOps(self, seed)


class ListOps(StoredTask):
    """Expressions and their values. The score is the share of values that are right."""

    symbols = SYMBOLS
    answers = SYMBOLS[:10]
    inputs, outputs = len(symbols), len(answers)

    def __init__(self, config: ListOpsConfig, seed: int) -> None:
        self.config = config
        super().__init__(
            config, seed, lambda draw, count: _written(_grow(draw, count, config.depth))
        )


@dataclass(frozen=True, slots=True)
class _Level:
    """The nodes of all trees that lie at one level, tree after tree.

    symbol     [nodes]       a digit or an operation
    arguments  [operations]  how many each operation of the level has
    """

    symbol: Ints
    arguments: Ints

    @property
    def operations(self) -> Ints:
        """Which nodes are operations."""
        return np.flatnonzero(self.symbol >= 10)

    @property
    def first(self) -> Ints:
        """Each operation's first argument, a node of the next level."""
        return np.cumsum(self.arguments) - self.arguments


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What nodes may be, and what the nodes below them then may be.

    limit    [nodes]  operations within each other that there may be at most, the node's own with it
    reaches  [nodes]  whether there have to be as many
    """

    limit: Ints
    reaches: Flags

    def __getitem__(self, nodes: Flags) -> "_Bounds":
        return _Bounds(self.limit[nodes], self.reaches[nodes])


def _grow(draw: np.random.Generator, count: int, depth: int) -> list[_Level]:
    """Trees of exactly this depth, from their roots on."""
    within = _within(depth)
    levels = []
    bounds = _Bounds(np.full(count, depth), np.ones(count, np.bool_))
    while len(bounds.limit):
        # the roots reach 1 or more, and what reaches that is an operation; of the others, so many
        digit = draw.random(len(bounds.limit)) * within[bounds.limit] < _DIGIT
        operation = np.where(bounds.reaches, bounds.limit > 0, ~digit)
        kinds = draw.integers(_MIN, _CLOSE, size=len(operation))
        digits = draw.integers(10, size=len(operation))
        arguments, bounds = _arguments(draw, bounds[operation], within)
        levels.append(_Level(np.where(operation, kinds, digits), arguments))
    return levels


def _within(depth: int) -> Floats:
    """a(0) to a(depth), then a(-1), which is the last as Python counts."""
    a = [_DIGIT]
    for _ in range(depth):
        a.append(_DIGIT + (1 - _DIGIT) * float((a[-1] ** _ARGUMENTS).mean()))
    return np.array([*a, 0.0])


def _arguments(draw: np.random.Generator, bounds: _Bounds, within: Floats) -> tuple[Ints, _Bounds]:
    """How many arguments operations have, and what these may be."""
    at_most = within[bounds.limit - 1][:, None]
    less = np.where(bounds.reaches, within[bounds.limit - 2], 0)[:, None]
    weight = np.cumsum(at_most**_ARGUMENTS - less**_ARGUMENTS, axis=1)
    below = weight < draw.random((len(weight), 1)) * weight[:, -1:]
    number = _ARGUMENTS[0] + below.sum(1)

    # the first argument that reaches the limit: those before it may not, those after it may
    place = np.arange(_ARGUMENTS[-1])
    left = np.maximum(number[:, None] - place, 1)
    chance = (at_most - less) * at_most ** (left - 1) / (at_most**left - less**left)
    reaching = bounds.reaches[:, None] & (draw.random(chance.shape) < chance)
    first = np.where(bounds.reaches, reaching.argmax(1), -1)[:, None]
    limit = bounds.limit[:, None] - 1 - (place < first)
    there = place < number[:, None]
    return number, _Bounds(limit[there], np.broadcast_to(place == first, there.shape)[there])


def _written(levels: list[_Level]) -> Sequences:
    """The trees as tokens, with their values at the end."""
    sizes, values = _from_the_leaves(levels)
    length = sizes[0]
    tokens = np.empty(length.sum(), np.int8)
    target = np.full(len(tokens), NOTHING, np.int8)
    target[np.cumsum(length) - 1] = values[0]
    begin = np.cumsum(length) - length
    for n, level in enumerate(levels):
        tokens[begin] = level.symbol
        operations = level.operations
        if not len(operations):
            break
        tokens[(begin + sizes[n])[operations] - 1] = _CLOSE
        # an argument begins where those before it have ended
        before = np.cumsum(sizes[n + 1]) - sizes[n + 1]
        own = begin[operations] + 1 - before[level.first]
        begin = np.repeat(own, level.arguments) + before
    return Sequences(input=tokens, target=target, length=length)


def _from_the_leaves(levels: list[_Level]) -> tuple[list[Ints], list[Ints]]:
    """Tokens and value of each node, level by level."""
    sizes, values = [], []
    size = value = np.zeros(0, np.int64)
    for level in reversed(levels):
        operations, first = level.operations, level.first
        below, inner = value, size
        value, size = level.symbol.copy(), np.ones(len(level.symbol), np.int64)
        if len(operations):
            size[operations] = 2 + np.add.reduceat(inner, first)
            value[operations] = np.select(
                [level.symbol[operations] == kind for kind in (_MIN, _MAX)],
                [np.minimum.reduceat(below, first), np.maximum.reduceat(below, first)],
                below[first],
            )
        sizes.append(size)
        values.append(value)
    return sizes[::-1], values[::-1]
