"""Tasks whose sequences are made once, when they are opened, and read again in every epoch.

The sequences are the same for every run: they come from ``data_seed``. The run's seed decides in
which order they are read. An epoch is a permutation of the training set, and batches are cut from
epoch after epoch without a seam: all are full, each sequence is read once in each epoch, and the
batch of an epoch's last step may end with the first sequences of the next. (The authors' last
batch of an epoch is smaller.)

Sequences of one batch are padded at their end to the longest of them. Nothing is asked there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fwp_rl.config import Range
from fwp_rl.tasks.base import Split, SymbolTaskConfig, TaskBatch
from fwp_rl.tasks.symbols import SymbolTask

__all__ = ["NOTHING", "Epochs", "Sequences", "StoredTask", "StoredTaskConfig"]

NOTHING: Final = -1
"""The answer of a step at which nothing is asked."""

EVALUATION_BATCH: Final = 128
"""Sequences that are evaluated together."""

_Part: TypeAlias = Literal["train"] | Split


@dataclass(frozen=True, kw_only=True)
class StoredTaskConfig(SymbolTaskConfig):
    """What tasks with a fixed set of sequences can be told; the defaults are the authors'."""

    train_size: Annotated[int, Range(1, 10_000_000)] = 10_000
    """Sequences to learn from."""
    validation_size: Annotated[int, Range(1, 10_000_000)] = 1_000
    """Sequences of the validation set."""
    test_size: Annotated[int, Range(1, 10_000_000)] = 1_000
    """Sequences of the test set."""
    data_seed: Annotated[int, Range(0, 2**32 - 1)] = 42
    """What the sequences are made from, whatever the seed of the run."""
    sorted_batches: Annotated[int, Range(1, 10_000)] = 1
    """Cut so many batches of an epoch together, sorted by length and read in an order of their own:
    less padding, and batches of sequences that are alike. 1: batches as they are drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequences:
    """N sequences, one behind the other.

    input   [sum of lengths]  symbols
    target  [sum of lengths]  answers, NOTHING where nothing is asked
    length  [N]
    """

    input: NDArray[np.integer]
    target: NDArray[np.integer]
    length: NDArray[np.int64]

    def batch(self, chosen: NDArray[np.int64]) -> TaskBatch:
        """The sequences of these numbers, as columns of a batch."""
        length = self.length[chosen]
        begin = (self.length.cumsum() - self.length)[chosen]
        step = np.arange(length.max())[:, None]
        inside = step < length
        place = np.where(inside, begin + step, 0)
        target = np.where(inside, self.target[place], NOTHING)
        return TaskBatch(
            input=torch.from_numpy(np.where(inside, self.input[place], 0).astype(np.int64)),
            target=torch.from_numpy(np.maximum(target, 0).astype(np.int64)),
            mask=torch.from_numpy(target != NOTHING),
            reset=torch.from_numpy(np.broadcast_to(step == 0, inside.shape).copy()),
        )


class StoredTask(SymbolTask):
    """A task over symbols with a training, a validation and a test set."""

    def __init__(
        self,
        config: StoredTaskConfig,
        seed: int,
        make: Callable[[np.random.Generator, int], Sequences],
    ) -> None:
        """``make(draw, count)`` makes so many sequences."""
        super().__init__(seed)
        self.embedding_size = config.embedding_size
        sizes: dict[_Part, int] = {
            "train": config.train_size,
            "validation": config.validation_size,
            "test": config.test_size,
        }
        self.sets: dict[_Part, Sequences] = {
            part: make(np.random.default_rng([config.data_seed, number]), size)
            for number, (part, size) in enumerate(sizes.items())
        }
        self._epochs = Epochs(self.sets["train"].length, config.sorted_batches, self.draws)

    def batch(self, step: int, size: int) -> TaskBatch:
        return self.sets["train"].batch(self._epochs.chosen(step, size))

    def batches(self, split: Split) -> Iterator[TaskBatch]:
        sequences = self.sets[split]
        by_length = np.argsort(sequences.length, kind="stable")
        for start in range(0, len(by_length), EVALUATION_BATCH):
            yield sequences.batch(by_length[start : start + EVALUATION_BATCH])


class Epochs:
    """Which sequences the batch of a step holds: a permutation of them all, then the next one.
    ``together`` batches are cut from there at a time, after sorting by length."""

    def __init__(
        self,
        length: NDArray[np.int64],
        together: int,
        draws: Callable[[str, int], np.random.Generator],
    ) -> None:
        """
        length  [N]  of the sequences
        draws   the task's
        """
        self._length, self._together, self._draws = length, together, draws
        self._last_order: tuple[int, NDArray[np.int64]] = (0, self._draw_order(0))

    def chosen(self, step: int, size: int) -> NDArray[np.int64]:
        """[size] numbers of sequences."""
        window, place = divmod(step, self._together)
        count = self._together * size
        chosen = self._read(window * count, count)
        # for one batch alone this decides the order of its columns, which is nobody's matter
        chosen = chosen[np.argsort(self._length[chosen], kind="stable")]
        batches = self._draws("batches", window).permutation(self._together)
        columns: NDArray[np.int64] = chosen.reshape(-1, size)[batches[place]]
        return columns

    def _read(self, start: int, count: int) -> NDArray[np.int64]:
        """What is read at these places of all epochs, one behind the other."""
        epoch, place = np.divmod(np.arange(start, start + count), len(self._length))
        parts = [self._order(e)[place[epoch == e]] for e in range(epoch[0], epoch[-1] + 1)]
        return np.concatenate(parts)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        known, order = self._last_order
        if known != epoch:
            order = self._draw_order(epoch)
            self._last_order = (epoch, order)
        return order

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        order: NDArray[np.int64] = self._draws("epoch", epoch).permutation(len(self._length))
        return order
