"""Tasks that are trained short and tested long.

Sequences are drawn anew for each training step, at one length or a range of them. Validation is
made at the training length, and so is the score, ``accuracy``. The test adds longer sequences: what
a core has learned to hold for a while, does it hold it for eight times as long?
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fwp_rl.config import ConfigError, Range
from fwp_rl.tasks.base import Split, SymbolTaskConfig, TaskBatch
from fwp_rl.tasks.symbols import SymbolTask, accuracies

__all__ = ["Artifacts", "Integers", "LengthTask", "LengthTaskConfig", "made_batch"]

Integers: TypeAlias = NDArray[np.int64]
Artifacts: TypeAlias = Mapping[str, bytes] | None
"""What a task kept beside a run; these keep nothing."""

_TOGETHER = 128
"""Sequences that are evaluated in one call."""


@dataclass(frozen=True, kw_only=True)
class LengthTaskConfig(SymbolTaskConfig):
    """What tasks of any length can be told. Each says what its length counts."""

    length: Annotated[int, Range(1, 100_000)] = 16
    """Length of training, of validation and of the score."""
    min_length: Annotated[int | None, Range(1, 100_000)] = None
    """Shortest length of training: each batch has a length of its own, uniform from here to
    ``length``. None: always ``length``."""
    test_lengths: tuple[Annotated[int, Range(1, 10_000)], ...] = (1, 2, 4, 8)
    """Lengths of the test, ascending, in multiples of ``length``."""
    validation_sequences: Annotated[int, Range(1, 1_000_000)] = 256
    """Sequences of the validation split."""
    test_sequences: Annotated[int, Range(1, 1_000_000)] = 512
    """Sequences of the test split at each length."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shortest > self.length:
            raise ConfigError(
                f"min_length: got {self.min_length}, expected at most length = {self.length}"
            )
        times = tuple(self.test_lengths)
        if not times or any(a >= b for a, b in pairwise(times)):
            raise ConfigError(
                f"test_lengths: got {list(times)}, expected one or more numbers, ascending"
            )

    @property
    def shortest(self) -> int:
        """The shortest length of training."""
        return self.length if self.min_length is None else self.min_length

    @property
    def tested(self) -> list[int]:
        """The lengths of the test."""
        return [self.length * times for times in self.test_lengths]

    def score_bounds(self) -> tuple[float, float]:
        return self.chance_at(self.length), 1.0

    def chance_at(self, length: int) -> float:
        """Expected accuracy, at a length, of the best answer that is always the same one."""
        raise NotImplementedError


class LengthTask(SymbolTask):
    """A task whose sequences can be made at any length; subclasses make them.

    Metrics of validation are those of ``accuracies`` at the training length. The test has them too,
    and ``accuracy_at_N`` for each of its lengths N, and ``long_accuracy``, that of the longest.
    """

    def __init__(self, config: LengthTaskConfig, seed: int, *, inputs: int, outputs: int) -> None:
        super().__init__(seed)
        self.embedding_size = config.embedding_size
        self.inputs, self.outputs = inputs, outputs
        self._lengths = config

    @abstractmethod
    def sequences(self, draws: np.random.Generator, length: int, size: int) -> TaskBatch:
        """``size`` sequences of a length, on the CPU."""

    def batch(self, step: int, size: int) -> TaskBatch:
        draws = self.draws("training", step)
        shortest, longest = self._lengths.shortest, self._lengths.length
        length = int(draws.integers(shortest, longest, endpoint=True))
        return self.sequences(draws, length, size)

    def batches(self, split: Split) -> Iterator[TaskBatch]:
        return self.batches_at(split, self._lengths.length)

    def batches_at(self, split: Split, length: int) -> Iterator[TaskBatch]:
        """The sequences of a split at a length."""
        config = self._lengths
        count = config.validation_sequences if split == "validation" else config.test_sequences
        for index, start in enumerate(range(0, count, _TOGETHER)):
            draws = self.draws(f"{split} at {length}", index)
            yield self.sequences(draws, length, min(_TOGETHER, count - start))

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        metrics = super().evaluate(model, split)
        if split == "validation":
            return metrics
        found = {self._lengths.length: metrics["accuracy"]}
        for length in self._lengths.tested:
            if length not in found:
                found[length] = accuracies(model, self.batches_at(split, length))["accuracy"]
            metrics[f"accuracy_at_{length}"] = found[length]
        return metrics | {"long_accuracy": found[self._lengths.tested[-1]]}


def made_batch(symbols: Integers, target: Integers, mask: NDArray[np.bool_]) -> TaskBatch:
    """Whole sequences [T, B] that all begin at step 0; the mask [T, B], or [T, 1] for all."""
    reset = np.zeros(symbols.shape, np.bool_)
    reset[0] = True
    whole = np.array(np.broadcast_to(mask, symbols.shape))
    arrays: list[NDArray[Any]] = [symbols, target, whole, reset]
    symbol, answer, asked, first = map(torch.from_numpy, arrays)
    return TaskBatch(input=symbol, target=answer, mask=asked, reset=first)
