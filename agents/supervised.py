"""Supervised training of a core on a sequence task (``fwp_rl/tasks/``).

No environment, no policy: the cores that agents have, in a network of the task's, trained by the
gradient of the task's loss. One step takes a batch of sequences,

    L = mean over the steps at which an answer is asked of the loss of that answer

with gradients through the whole batch, and Adam. Every ``evaluate_every`` steps the validation
split is measured. The best weights by that measure are kept, and measured once on the test split,
when training ends.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import nn

from fwp_rl.config import Range
from fwp_rl.losses import StepLosses
from fwp_rl.runs.config import AGENTS, RunConfig
from fwp_rl.runs.seeding import derive_seed
from fwp_rl.tasks import Task, TaskBatch, TaskConfig
from fwp_rl.training.descent import Descent
from fwp_rl.training.task_session import TaskSession
from fwp_rl.types import State

__all__ = ["SupervisedConfig", "train"]


@AGENTS.register("supervised")
@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(RunConfig):
    """Supervised training of a core on a sequence task; no environment."""

    task: TaskConfig
    """What is learned."""
    total_steps: Annotated[int, Range(1)] = 10_000
    """Gradient steps to train for, at most."""
    batch_size: Annotated[int, Range(1, 65536)] = 32
    """Sequences in a batch."""
    learning_rate: Annotated[float, Range(0, 1, above=True)] = 1e-3
    """Adam's learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Of the learning rate after the warm-up: as it is, or to 0 at total_steps along a line or half
    a cosine."""
    warmup_steps: Annotated[int, Range(0)] = 0
    """First steps, over which the learning rate rises from 0 along a line."""
    adam_beta2: Annotated[float, Range(0, 1)] = 0.999
    """Adam's β₂; β₁ is 0.9."""
    adam_epsilon: Annotated[float, Range(0, 1, above=True)] = 1e-8
    """Adam's epsilon."""
    weight_decay: Annotated[float, Range(0, 1)] = 0.0
    """Of the weights themselves, as in AdamW."""
    max_gradient_norm: Annotated[float | None, Range(0, above=True)] = 1.0
    """Gradients are scaled down to this global norm; none: as they are."""
    evaluate_every: Annotated[int, Range(1)] = 200
    """Gradient steps between two evaluations on the validation split."""
    stop_at: Annotated[float | None, Range()] = None
    """End once an evaluation is as good as this; none: never."""
    patience: Annotated[int | None, Range(1)] = None
    """End after so many evaluations without a new best; none: never."""
    max_minutes: Annotated[float | None, Range(0, above=True)] = None
    """End after so many minutes of training and evaluation; the result then says so. None: never.
    How far a run comes depends on the machine."""
    matmul_precision: Literal["float32", "tf32"] = "float32"
    """Products of float32 on a GPU: tf32 rounds their factors to 10 bits of mantissa."""

    def subject(self) -> str:
        return self.task.title()

    def score_bounds(self) -> tuple[float, float] | None:
        return self.task.score_bounds()

    def guessed_speed(self) -> float:
        return 20.0

    def learning_rate_at(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        left = max(1, self.total_steps - self.warmup_steps)
        done = min(1.0, (step - self.warmup_steps) / left)
        share = 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * share

    def train(self, *, resume: Path | None = None) -> Path:
        return train(self, resume=resume)


def train(config: SupervisedConfig, *, resume: Path | None = None) -> Path:
    """Train until the config says stop; returns the run directory, with ``result.json`` in it.

    ``resume`` continues that run directory from its newest good checkpoint, with the batches that
    it would have had. Ctrl-C and SIGTERM save a checkpoint before they take effect.
    """
    with TaskSession(config, resume=resume) as session:
        task = config.task.open(derive_seed(config.seed, "task"), session.artifacts())
        task.batch(session.step, config.batch_size)  # what it refuses is said before a run is there
        network = task.model(config.core).to(session.device)
        optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=config.learning_rate,
            betas=(0.9, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
        session.start(task, network, optimizer)
        descend = session.closing(
            Descent(config, network, optimizer, cores=torch.get_num_threads(), tell=session.tell),
            "the learner's threads",
        )
        state = network.initial_state(config.batch_size, session.device)  # type: ignore[operator]
        start = state

        while session.stopped is None:
            session.poll()
            # data: a function of the step
            with session.stopwatch("data"):
                batch = task.batch(session.step, config.batch_size)
                batch = batch.map(lambda x: x.to(session.device, non_blocking=True))

            # learn: one gradient step
            with session.stopwatch("learning"):
                try:
                    metrics, after = _step(task, network, descend, batch, state, session.step)
                except FloatingPointError as error:
                    session.diverge(error)
                    break
            state = after if task.carries_state else start

            # record: the log, an evaluation and a checkpoint when their time has come
            session.log(metrics)
            session.save_if_due()
        session.finish()
    return session.path


def _step(
    task: Task,
    network: nn.Module,
    descend: Descent,
    batch: TaskBatch,
    state: State,
    step: int,
) -> tuple[dict[str, float], State]:
    """One gradient step on a batch; returns its metrics and the state after it."""
    ends: dict[int, State] = {}

    def loss(part: slice) -> StepLosses:
        own = batch.map(lambda x: x[:, part])
        losses, end = task.loss(network, own, tuple(leaf[part] for leaf in state))
        if task.carries_state:
            ends[part.start] = tuple(leaf.detach() for leaf in end)
        return replace(losses, parts={**losses.parts, "loss/mean": losses.loss.detach()})

    columns = batch.mask.shape[1]
    metrics = descend(loss, columns=columns, divisor=batch.mask.sum(), step=step)
    parts = [ends[start] for start in sorted(ends)]
    return metrics, tuple(torch.cat(leaves) for leaves in zip(*parts, strict=True))
