"""Copying: say again what was shown, in its order.

``copy`` shows the symbols one after the other, waits, and asks for them: the memory problem of
Hochreiter & Schmidhuber, "Long Short-Term Memory" (1997), in the form that Graves et al., "Neural
Turing Machines" (2014), and Arjovsky et al., "Unitary Evolution Recurrent Neural Networks" (2016),
test memories by. ``selective_copy`` scatters the same symbols among blanks, after Gu & Dao,
"Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023): a core has to see what to
store, for the steps alone no longer say so.

    copy            B D A C . . . . . . > > > >          items 4, length 6
    selective copy  . B . . D A . . C . > > > >          items 4, length 10
    asked                               B D A C

A signal (>) asks for the next symbol. The answer is never shown, so that nothing but the state can
say how many were asked for already.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fwp_rl.config import ConfigError, Range
from fwp_rl.tasks.base import TASKS, TaskBatch
from fwp_rl.tasks.lengths import Artifacts, Integers, LengthTask, LengthTaskConfig, made_batch

__all__ = ["CopyConfig", "SelectiveCopyConfig"]


@dataclass(frozen=True, kw_only=True)
class _CopyingConfig(LengthTaskConfig):
    items: Annotated[int, Range(1, 10_000)] = 8
    """Symbols to copy, each uniform and independent of the others."""
    symbols: Annotated[int, Range(2, 10_000)] = 8
    """Different symbols that there are."""

    def chance_at(self, length: int) -> float:
        return 1 / self.symbols

    def open(self, seed: int, artifacts: Artifacts = None) -> "_Copying":
        return _Copying(self, seed)

    def places(self, draws: np.random.Generator, length: int, size: int) -> tuple[int, Integers]:
        """The step of the first signal, and those of the symbols [items, size], ascending."""
        raise NotImplementedError


@TASKS.register("copy")
@dataclass(frozen=True, kw_only=True)
class CopyConfig(_CopyingConfig):
    """Symbols, blanks, and then the symbols again, each at a signal."""

    length: Annotated[int, Range(1, 100_000)] = 16
    """Blanks between the last symbol and the first signal."""

    def places(self, draws: np.random.Generator, length: int, size: int) -> tuple[int, Integers]:
        del draws  # the symbols stand first, always
        return self.items + length, np.arange(self.items)[:, None].repeat(size, axis=1)


@TASKS.register("selective_copy")
@dataclass(frozen=True, kw_only=True)
class SelectiveCopyConfig(_CopyingConfig):
    """Symbols at random places among blanks, and then the symbols again, each at a signal."""

    length: Annotated[int, Range(1, 100_000)] = 24
    """Steps among which the symbols are scattered, before the first signal."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.items > self.shortest:
            raise ConfigError(
                f"items: got {self.items}, expected at most the shortest length = {self.shortest}"
            )

    def places(self, draws: np.random.Generator, length: int, size: int) -> tuple[int, Integers]:
        order = draws.random((length, size)).argsort(axis=0)
        return length, np.sort(order[: self.items], axis=0)


class _Copying(LengthTask):
    def __init__(self, config: _CopyingConfig, seed: int) -> None:
        # a blank and a signal besides the symbols
        super().__init__(config, seed, inputs=config.symbols + 2, outputs=config.symbols)
        self._config = config

    def sequences(self, draws: np.random.Generator, length: int, size: int) -> TaskBatch:
        config = self._config
        items, blank = config.items, config.symbols
        signals, places = config.places(draws, length, size)
        shown = draws.integers(config.symbols, size=(items, size))
        symbols = np.full((signals + items, size), blank)
        np.put_along_axis(symbols, places, shown, axis=0)
        symbols[signals:] = blank + 1
        target = np.zeros_like(symbols)
        target[signals:] = shown
        return made_batch(symbols, target, np.arange(len(symbols))[:, None] >= signals)
