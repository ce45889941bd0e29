"""What surrounds training on a sequence task beside what any run has: evaluations on the validation
split, the best of them, early stopping, and the result on the test split.
"""

import copy
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import torch
from pydantic import Field
from torch import nn

from fwp_rl.cores.base import Core
from fwp_rl.machine import facts, set_gpu_arithmetic
from fwp_rl.runs.checkpoint import best, load_checkpoint
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.files import write_file, write_json
from fwp_rl.runs.tensors import load_tensors
from fwp_rl.tasks import Split, Task, TaskConfig
from fwp_rl.training.restoring import Count, Restored, SessionState
from fwp_rl.training.run_session import RunSession

__all__ = ["SCORE", "Stopped", "TaskSession"]

Stopped: TypeAlias = Literal["steps", "solved", "patience", "time", "diverged"]
"""Why a training ended: all steps were taken, the measure was reached, no new best for too long,
the time was up, a gradient was not finite."""

SCORE = "validation/score"
"""The metric that holds the task's measure, whatever that is."""

MOST_ARTIFACT_BYTES = 1 << 28


class TaskRunConfig(Protocol):
    """What the config of a run on a sequence task has beside what any has."""

    @property
    def task(self) -> TaskConfig: ...
    @property
    def evaluate_every(self) -> int: ...
    @property
    def stop_at(self) -> float | None: ...
    @property
    def patience(self) -> int | None: ...
    @property
    def max_minutes(self) -> float | None: ...
    @property
    def matmul_precision(self) -> Literal["float32", "tf32"]: ...


class EvaluationsState(SessionState):
    """What a checkpoint holds of the evaluations so far."""

    evaluated: Count = 0
    """Step of the last one."""
    measured: float | None = None
    """What it gave; None before the first, and where it was no number."""
    best: float | None = None
    """The best of all."""
    waited: Count = 0
    """Evaluations since."""
    seconds: Annotated[float, Field(ge=0)] = 0.0
    """Of training and evaluation."""


class TaskSession(RunSession):
    """One process's share of a run on a sequence task; its steps are gradient steps.

    with TaskSession(config, resume=resume) as session:
        task = config.task.open(seed, session.artifacts())
        network, optimizer = ...
        session.start(task, network, optimizer)
        while session.stopped is None:
            ...
            session.log(metrics)
            session.save_if_due()
        session.finish()
    """

    state_schema = EvaluationsState

    def __init__(self, config: Any, *, resume: Path | None = None) -> None:
        super().__init__(config, resume=resume)
        self._task_config: TaskRunConfig = config
        set_gpu_arithmetic(self._task_config.matmul_precision)
        self._evaluations = EvaluationsState()
        self._diverged = False
        self._began = time.monotonic()

    def artifacts(self) -> dict[str, bytes] | None:
        """What the task has made of its training data when this run began; None for a new run."""
        if self.resume is None:
            return None
        folder = RunDirectory.open(self.resume).task
        if not folder.is_dir():
            return {}
        files = sorted(path for path in folder.iterdir() if path.is_file())
        return {path.name: path.read_bytes() for path in files}

    def start(self, task: Task, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """``begin``, for this task."""
        self._task = task
        self.begin(network, optimizer)

    @property
    def stopped(self) -> Stopped | None:
        """Why training is over; None while it is not."""
        if self._diverged:
            return "diverged"
        config, now = self._task_config, self._evaluations
        if config.stop_at is not None and now.best is not None:
            reached = now.best >= config.stop_at
            if not self._task.higher_is_better:
                reached = now.best <= config.stop_at
            if reached:
                return "solved"
        if config.patience is not None and now.waited >= config.patience:
            return "patience"
        if self.step >= self.config.total_steps:
            return "steps"
        if config.max_minutes is not None and self._seconds() >= 60 * config.max_minutes:
            return "time"
        return None

    def log(self, metrics: Mapping[str, float]) -> None:
        """Count a gradient step; at every ``log_every``-th write the means of what was logged since
        the last row."""
        self._count(1, metrics)

    def diverge(self, error: FloatingPointError) -> None:
        """A gradient was not finite, and the weights are untouched: training ends here."""
        self._diverged = True
        self.warn(str(error))

    def finish(self) -> dict[str, Any]:
        """Evaluate the last weights, then the best ones on the test split; writes and returns
        ``result.json``."""
        if self._evaluations.evaluated != self.step or self._evaluations.best is None:
            self._evaluate()
        self.save()
        stopped = self.stopped
        assert stopped is not None
        checkpoint = load_checkpoint(best(self._directory.checkpoints))
        network = copy.deepcopy(self._network)
        load_tensors(network, checkpoint.policy, source=str(checkpoint.path))
        validation = self._examine(network, "validation")
        test = self._examine(network, "test")
        core = getattr(network, "core", None)
        result = {
            "schema": 1,
            "task": self._task_config.task.title(),
            "step": checkpoint.step,
            "steps": self.step,
            "stopped": stopped,
            "seconds": round(self._seconds(), 3),
            "measure": self._task.measure,
            "score": _number(test[self._task.measure]),
            "validation": {name: _number(value) for name, value in validation.items()},
            "test": {name: _number(value) for name, value in test.items()},
            "size": {
                "parameters": sum(p.numel() for p in network.parameters()),
                "core_inputs": core.input_size if isinstance(core, Core) else None,
            },
            "run": self._identity,
            **facts(self.device),
        }
        write_json(self._directory.result, result)
        return result

    def _opened(self, run: RunDirectory) -> list[str]:
        for name, content in self._task.artifacts().items():
            run.task.mkdir(exist_ok=True)
            write_file(run.task / name, content)
        return []

    def _watching(self) -> None:
        self._began = time.monotonic()
        if self.stopped is None:  # it goes on, and what it came to before is no longer its result
            self._directory.result.unlink(missing_ok=True)

    def _seconds(self) -> float:
        return self._evaluations.seconds + time.monotonic() - self._began

    def _state(self) -> dict[str, Any]:
        state = self._evaluations.model_dump(exclude={"milestone", "sessions"})
        return state | {"seconds": self._seconds()}

    def _take_over(self, found: Restored) -> None:
        assert isinstance(found.state, EvaluationsState)
        self._evaluations = found.state

    def _score(self) -> tuple[float | None, Literal["training", "evaluation"]]:
        now = self._evaluations
        if now.evaluated != self.step or now.measured is None:
            return None, "evaluation"
        return (now.measured if self._task.higher_is_better else -now.measured), "evaluation"

    def _evaluate_if_due(self) -> bool:
        """A checkpoint follows where it is the best so far."""
        every = self._task_config.evaluate_every
        if self.step // every <= self._evaluations.evaluated // every:
            return False
        before = self._evaluations.best
        self._evaluate()
        return self._evaluations.best != before

    def _evaluate(self) -> None:
        start = time.monotonic()
        metrics = self._examine(self._network, "validation")
        measured = _number(metrics[self._task.measure])
        before = self._evaluations
        is_best = measured is not None and (
            before.best is None
            or (measured > before.best if self._task.higher_is_better else measured < before.best)
        )
        self._evaluations = before.model_copy(
            update={
                "evaluated": self.step,
                "measured": measured,
                "best": measured if is_best else before.best,
                "waited": 0 if is_best else before.waited + 1,
            }
        )
        self._saved_step = -1  # the checkpoint of this step, if there is one, lacks the score
        row = {f"validation/{name}": value for name, value in metrics.items()}
        row[SCORE] = metrics[self._task.measure]
        self._log.interlude(self.step, row, time.monotonic() - start)

    def _examine(self, network: nn.Module, split: Split) -> Mapping[str, float]:
        """Metrics of a split. Training draws the same with and without it."""
        training = network.training
        devices = [self.device] if self.device.type == "cuda" else []
        network.eval()
        try:
            with torch.random.fork_rng(devices=devices), torch.no_grad():
                return self._task.evaluate(network, split)
        finally:
            network.train(training)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
