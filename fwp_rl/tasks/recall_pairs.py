"""Multi-query associative recall: pairs of keys and values, and then keys alone.

Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language Models" (2023). The
pairs stand first, key and value in a step each, and some of the keys return at random later places;
at each, its value is asked.

    k3 v1 k7 v4 . . . k7 . k3 . .          pairs 2, queries 2, length 8
                      v4   v1              asked

A value has to be stored under the symbol of the step before it, at once and for any time. The
authors also put symbols that mean nothing where blanks stand here.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from fwp_rl.config import ConfigError, Range
from fwp_rl.tasks.base import TASKS, TaskBatch
from fwp_rl.tasks.lengths import Artifacts, Integers, LengthTask, LengthTaskConfig, made_batch

__all__ = ["AssociativeRecallConfig"]


@TASKS.register("associative_recall")
@dataclass(frozen=True, kw_only=True)
class AssociativeRecallConfig(LengthTaskConfig):
    """Keys with a value each, and then some of the keys again: name their values."""

    length: Annotated[int, Range(1, 100_000)] = 16
    """Steps after the pairs, among which the queries are scattered; the others are blank."""
    pairs: Annotated[int, Range(1, 10_000)] = 4
    """Pairs that are shown. Their keys differ; their values are uniform and independent."""
    queries: Annotated[int, Range(1, 10_000)] = 4
    """Pairs that are asked for, each once: at most all of them."""
    symbols: Annotated[int, Range(2, 10_000)] = 16
    """Keys that there are, and values as well: no symbol is both."""
    gaps: Literal["uniform", "power_law"] = "uniform"
    """Where the queries stand: anywhere, or more of them soon, step x with a weight of x^-0.99, as
    the authors draw them: so do gaps fall in natural text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most, what in (
            ("pairs", self.symbols, "symbols"),
            ("queries", self.pairs, "pairs"),
            ("queries", self.shortest, "the shortest length"),
        ):
            if getattr(self, name) > most:
                raise ConfigError(
                    f"{name}: got {getattr(self, name)}, expected at most {what} = {most}"
                )

    def chance_at(self, length: int) -> float:
        return 1 / self.symbols

    def open(self, seed: int, artifacts: Artifacts = None) -> "_AssociativeRecall":
        return _AssociativeRecall(self, seed)


class _AssociativeRecall(LengthTask):
    def __init__(self, config: AssociativeRecallConfig, seed: int) -> None:
        # keys, values, a blank
        super().__init__(config, seed, inputs=2 * config.symbols + 1, outputs=config.symbols)
        self._config = config

    def sequences(self, draws: np.random.Generator, length: int, size: int) -> TaskBatch:
        config = self._config
        keys = draws.random((config.symbols, size)).argsort(axis=0)[: config.pairs]
        values = draws.integers(config.symbols, size=keys.shape)
        # whichever pair was drawn first: which are asked for is as good as drawn before their order
        order = draws.random(keys.shape).argsort(axis=0)
        symbols = np.full((2 * config.pairs + length, size), 2 * config.symbols)
        symbols[0 : 2 * config.pairs : 2] = np.take_along_axis(keys, order, axis=0)
        symbols[1 : 2 * config.pairs : 2] = np.take_along_axis(values, order, axis=0)
        symbols[1 : 2 * config.pairs : 2] += config.symbols
        places = 2 * config.pairs + self._places(draws, length, size)
        np.put_along_axis(symbols, places, keys[: config.queries], axis=0)
        target, mask = np.zeros_like(symbols), np.zeros(symbols.shape, np.bool_)
        np.put_along_axis(target, places, values[: config.queries], axis=0)
        np.put_along_axis(mask, places, True, axis=0)
        return made_batch(symbols, target, mask)

    def _places(self, draws: np.random.Generator, length: int, size: int) -> Integers:
        """The steps of the queries, counted from the end of the pairs [queries, size].

        The smallest of exponential draws, each divided by its weight, are places drawn one after
        the other by these weights, none of them twice.
        """
        scores = draws.exponential(size=(length, size))
        if self._config.gaps == "power_law":
            scores *= np.arange(1, length + 1)[:, None] ** 0.99
        return scores.argsort(axis=0)[: self._config.queries]
