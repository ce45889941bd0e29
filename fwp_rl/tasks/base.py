"""The contract between sequence tasks, cores and their trainer (``agents/supervised.py``).

A task is a config, as an environment is: its class is chosen by name (``task: {name: copy}``), and
``open`` makes or reads its data. What it then provides is small: a model around a core, a batch for
each training step, the loss of a batch, and metrics. It knows nothing of runs, optimizers and
files of its own results.

Data is time-major, as everywhere (``fwp_rl/types.py``): T steps of B sequences. The same seed gives
the same data, and ``batch(step)`` is a function of the step, so that a resumed run goes on with the
batches that it would have had.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal, TypeAlias

import numpy as np
from torch import Tensor, nn

from fwp_rl.config import Range, check_ranges
from fwp_rl.cores import CoreConfig
from fwp_rl.losses import StepLosses
from fwp_rl.registry import Registry
from fwp_rl.types import State

__all__ = ["TASKS", "Split", "SymbolTaskConfig", "Task", "TaskBatch", "TaskConfig"]

Split: TypeAlias = Literal["validation", "test"]
"""What an evaluation is made on: validation chooses the best checkpoint and stops a training, test
is measured once, at its end."""


@dataclass(kw_only=True, slots=True)
class TaskBatch:
    """B sequences of T steps, and what is asked of them.

    input   [T, B]  int64  symbols; tasks with a model of their own may read it otherwise
    target  [T, B]  int64  the answers; any symbol where nothing is asked
    mask    [T, B]  bool   the steps at which an answer is asked
    reset   [T, B]  bool   the first step of a sequence, before which the core forgets
    """

    input: Tensor
    target: Tensor
    mask: Tensor
    reset: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> "TaskBatch":
        """The batch of other tensors, each what ``change`` makes of one."""
        return TaskBatch(**{f.name: change(getattr(self, f.name)) for f in fields(self)})


class Task(ABC):
    """A task with its data, ready to train on. Get one by ``TaskConfig.open``."""

    measure: ClassVar[str] = "accuracy"
    """Which of the metrics is the score."""
    higher_is_better: ClassVar[bool] = True
    carries_state: bool = False
    """Whether the next batch goes on where this one ends: the core's state is handed on, without
    gradient. Else every batch begins with the initial state."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def draws(self, stream: str, index: int = 0) -> np.random.Generator:
        """Random numbers of the task's seed, by the name of what they are for and an index, such as
        the step."""
        return np.random.default_rng([self._seed, zlib.crc32(stream.encode()), index])

    @abstractmethod
    def model(self, core: CoreConfig) -> nn.Module:
        """A new network around a core, initialised from torch's global generator. It has
        ``initial_state(batch_size, device) -> State``."""

    @abstractmethod
    def batch(self, step: int, size: int) -> TaskBatch:
        """The batch of a training step, on the CPU; always the same for the same step and size."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: TaskBatch, state: State) -> tuple[StepLosses, State]:
        """The loss of each step of a batch, without reduction, and the state after it.

        The trainer takes the mean over the steps that count. A batch may be a part of the
        sequences of a larger one, and be computed in any thread.
        """

    @abstractmethod
    def evaluate(self, model: nn.Module, split: Split) -> Mapping[str, float]:
        """Metrics of a whole split, on the device that the model is on; ``measure`` is one of them.
        Called without gradients, with the model in evaluation mode. It draws nothing that training
        draws."""

    def artifacts(self) -> Mapping[str, bytes]:
        """What was made from the training data and belongs to the trained model, such as a
        vocabulary: plain file name → content. The run keeps it and hands it to ``open`` again."""
        return {}


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Base of the config of every task."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def title(self) -> str:
        """Name of the task with the options that make it another task, for reports: ``copy``."""
        return TASKS.name_of(type(self))

    def score_bounds(self) -> tuple[float, float] | None:
        """The score of a guess and the best one, where the task has both; reports scale by them."""
        return None

    def open(self, seed: int, artifacts: Mapping[str, bytes] | None = None) -> Task:
        """Make the task's data, or read them. ConfigError, in one line that names the file and the
        place, where they cannot be used.

        artifacts  what ``Task.artifacts`` gave when the run began; None for a new run
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class SymbolTaskConfig(TaskConfig):
    """What tasks over symbols can be told: embedding → core → logits."""

    embedding_size: Annotated[int, Range(1, 65536)] = 64
    """Features of a symbol, the core's input."""


TASKS: Registry[TaskConfig] = Registry("task", "fwp_rl.tasks")
