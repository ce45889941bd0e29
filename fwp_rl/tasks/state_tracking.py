"""State tracking: follow a state that each symbol changes, and name it.

    parity             running sum of bits, modulo 2
    modular_counting   running sum of steps or digits, modulo m
    permutations       product of permutations of n objects

All three are walks in a finite group: the state is an element, a symbol multiplies it, and no
symbol may be missed, since each changes every state after it. Parity, and "cycle navigation", which
is modular counting with the steps 0, +1 and -1, are among the regular languages of Delétang et al.,
"Neural Networks and the Chomsky Hierarchy" (2022). Permutations of 3 objects make a group whose
products depend on their order; those of 5 the least one that is not solvable, whose word problem
Merrill et al., "The Illusion of State in State-Space Models" (2024), ask state-space models for.
Liu et al., "Transformers Learn Shortcuts to Automata" (2022), train transformers on such automata.
"""

from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from fwp_rl.config import Range
from fwp_rl.tasks.base import TASKS, TaskBatch
from fwp_rl.tasks.lengths import Artifacts, Integers, LengthTask, LengthTaskConfig, made_batch

__all__ = ["ModularCountingConfig", "ParityConfig", "PermutationsConfig"]


@dataclass(frozen=True, kw_only=True)
class _WalkConfig(LengthTaskConfig):
    length: Annotated[int, Range(1, 100_000)] = 16
    """Symbols to follow, each uniform and independent of the others."""
    asked: Literal["every", "last"] = "every"
    """Ask for the state after every symbol, or after the last alone: then nothing shows the way,
    and ``min_length`` 1 helps by sequences that are short."""

    def table(self) -> Integers:
        """The state that follows [states, symbols]; the first state is 0."""
        raise NotImplementedError

    def title(self) -> str:
        return self._name() + ", last" * (self.asked == "last")

    def _name(self) -> str:
        return super().title()

    def chance_at(self, length: int) -> float:
        """Exactly: the most likely state over the steps that are asked for."""
        table = self.table()
        states, symbols = table.shape
        share: NDArray[np.float64] = np.zeros(states)
        share[0] = 1
        total: NDArray[np.float64] = np.zeros(states)
        for _ in range(length):
            spread = np.repeat(share / symbols, symbols)
            share = np.bincount(table.ravel(), weights=spread, minlength=states).astype(np.float64)
            total += share
        return float(share.max() if self.asked == "last" else total.max() / length)

    def open(self, seed: int, artifacts: Artifacts = None) -> "_Walk":
        return _Walk(self, seed)


@TASKS.register("parity")
@dataclass(frozen=True, kw_only=True)
class ParityConfig(_WalkConfig):
    """Whether the ones so far are odd in number."""

    def table(self) -> Integers:
        return _sums(2, [0, 1])


@TASKS.register("modular_counting")
@dataclass(frozen=True, kw_only=True)
class ModularCountingConfig(_WalkConfig):
    """The sum so far, modulo m."""

    modulus: Annotated[int, Range(2, 1000)] = 5
    """m, the number of states."""
    steps: Literal["digits", "signs"] = "digits"
    """What is added: any number below m, or 0, 1 or -1. The sum of a few signs is a small number,
    and hardly asks for the modulus."""

    def _name(self) -> str:
        return f"{super()._name()} {self.modulus}" + ", signs" * (self.steps == "signs")

    def table(self) -> Integers:
        added = [0, 1, -1] if self.steps == "signs" else list(range(self.modulus))
        return _sums(self.modulus, added)


@TASKS.register("permutations")
@dataclass(frozen=True, kw_only=True)
class PermutationsConfig(_WalkConfig):
    """The order of some objects after all permutations so far: the word problem of S_n."""

    objects: Annotated[int, Range(3, 6)] = 3
    """n, the objects; there are n! states."""
    steps: Literal["elements", "generators", "swaps"] = "elements"
    """The permutations that are symbols: all n! of them; the swap of the first two and the cycle of
    all, which generate the others; or the n (n - 1) / 2 swaps of two."""

    def _name(self) -> str:
        ending = f", {self.steps}" * (self.steps != "elements")
        return f"{super()._name()} S{self.objects}{ending}"

    def table(self) -> Integers:
        n = self.objects
        states = np.array(list(permutations(range(n))))
        symbols = {
            "elements": states,
            "generators": np.array([[1, 0, *range(2, n)], [*range(1, n), 0]]),
            "swaps": np.array([_swap(n, i, j) for i, j in combinations(range(n), 2)]),
        }[self.steps]
        # where object i was at place p[i], the symbol g moves it on to place g[p[i]]
        after = symbols[:, states].swapaxes(0, 1)
        # permutations in alphabetical order are numbers with ascending digits
        digits = n ** np.arange(n)[::-1]
        return np.searchsorted(states @ digits, after @ digits).astype(np.int64)


class _Walk(LengthTask):
    def __init__(self, config: _WalkConfig, seed: int) -> None:
        self._table = config.table()
        states, symbols = self._table.shape
        super().__init__(config, seed, inputs=symbols, outputs=states)
        self._last = config.asked == "last"

    def sequences(self, draws: np.random.Generator, length: int, size: int) -> TaskBatch:
        symbols = draws.integers(self.inputs, size=(length, size))
        target = np.empty_like(symbols)
        state = np.zeros(size, np.int64)
        for t, symbol in enumerate(symbols):
            target[t] = state = self._table[state, symbol]
        asked = np.arange(length)[:, None] >= (length - 1 if self._last else 0)
        return made_batch(symbols, target, asked)


def _sums(modulus: int, added: list[int]) -> Integers:
    return (np.arange(modulus)[:, None] + added) % modulus


def _swap(n: int, i: int, j: int) -> list[int]:
    order = list(range(n))
    order[i], order[j] = j, i
    return order
