"""What surrounds any training loop: the run directory and its lock, seeds, log, display,
checkpoints, resuming and stopping. What is learned, and from what, it does not know.
"""

import dataclasses
import time
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from datetime import datetime
from errno import ENOENT
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

import torch
from torch import nn

from fwp_rl.cores import CORES
from fwp_rl.imports import import_flags
from fwp_rl.machine import choose_device, keep_freed_memory, limit_threads
from fwp_rl.rl.collector import Stopwatch
from fwp_rl.runs.checkpoint import save_checkpoint
from fwp_rl.runs.config import AGENTS, RunConfig
from fwp_rl.runs.crashes import trace_crashes
from fwp_rl.runs.directory import RunDirectory, RunError, RunState, default_run_name
from fwp_rl.runs.identity import new_identity
from fwp_rl.runs.metrics import MetricsLogger
from fwp_rl.runs.presets import config_to_dict, experiment
from fwp_rl.runs.seeding import derive_seed, seed_everything
from fwp_rl.runs.signals import StopRequest, StopTraining
from fwp_rl.runs.tracked import Stateful, check_name
from fwp_rl.runs.views import check_logger
from fwp_rl.terminal import Progress
from fwp_rl.training.log import TrainingLog
from fwp_rl.training.restoring import Restored, SessionState, restore

__all__ = ["RunSession"]


class _Closeable(Protocol):
    def close(self) -> None: ...


Resource = TypeVar("Resource", bound=_Closeable)
Tracked = TypeVar("Tracked", bound=Stateful)

FAILED_SAVES = 3
"""So many checkpoints in a row that cannot be written end a run."""

RETRY_SECONDS = 2.0
"""Between two attempts to write the last checkpoint."""


class RunSession:
    """One process's share of a run, from its start or from a checkpoint.

    Subclasses fill in what differs: ``_prepare``, ``_opened``, ``_state``, ``_take_over``,
    ``_score``, ``_scores_to_log``, ``_save_network`` and ``_watching``.

    A stop signal leaves through StopTraining. Leaving the context then saves, and raises
    KeyboardInterrupt (Ctrl-C) or SystemExit(143).
    """

    state_schema: type[SessionState] = SessionState
    """What ``_state`` gives, as it is read back."""

    def __init__(self, config: RunConfig, *, resume: Path | None = None) -> None:
        self.config = config
        self.resume = resume
        self.device = choose_device(config.device)
        limit_threads()  # who trains from Python has imported torch before anybody could
        self.step = 0
        """Steps so far, as the config's total_steps counts them."""
        self.stopwatch = Stopwatch()
        self._generators: dict[str, torch.Generator] = {}
        self._tracked: dict[str, Stateful] = {}
        if config.keep_memory:
            keep_freed_memory()
        seed_everything(config.seed)
        self._stop = StopRequest()
        self._cleanup = ExitStack()
        self._milestone = 0
        self._told: set[str] = set()
        self._saved = time.monotonic()
        self._saved_step = -1
        self._failed_saves = 0
        self._run: RunDirectory | None = None
        self._owned = False  # locked and begun: what a refused resume finds stays as it is

    @property
    def path(self) -> Path:
        """The run directory; exists from ``begin`` on."""
        return self._directory.path

    def __enter__(self) -> Self:
        return self

    def generator(self, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A random stream of the run, which its checkpoints hold; ask for it before ``begin``."""
        generator = torch.Generator(device)
        generator.manual_seed(derive_seed(self.config.seed, stream))
        self._generators[stream] = generator
        return generator

    def track(self, name: str, item: Tracked) -> Tracked:
        """Have a state that the run goes on with in its checkpoints, and restored by ``begin``: of
        a second optimizer, a schedule, a target network, a normaliser. Call it before ``begin``.

        item  has ``state_dict`` and ``load_state_dict``: dicts, lists and tuples of tensors,
              numbers and text

        Returns the item. ValueError where the name is taken or cannot be one.
        """
        if self._run is not None:
            raise RuntimeError(f"track({name!r}) after begin: a resumed run would not restore it")
        check_name(name, self._tracked)
        self._tracked[name] = item
        return item

    def begin(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Make or reopen the run directory, restore what a resumed run had, and start the display.

        RunError where the directory cannot be used, CheckpointError where nothing in it can.
        """
        # The order is a protocol. The caller has made the network, the optimizer, the random
        # streams and what it tracks, which a checkpoint is about to fill; it makes environments and
        # actors only after this, for their seeds depend on the step that a resumed run starts at.
        # First, what can fail for reasons of the machine fails before anything is written.
        if self.resume is None:  # a run that goes on does so without its view
            check_logger(self.config.logger)
        self._network, self._optimizer = network, optimizer
        self._prepare()
        if self.resume is None:
            self._run = self._new_directory()
        else:
            self._run = RunDirectory.open(self.resume)
        # The lock comes before the checkpoint is read: nobody replaces it meanwhile.
        self._cleanup.enter_context(self._run.lock())
        self._identity = new_identity()
        notes = self._opened(self._run)
        if self.resume is not None:
            notes += self._restore()
        # Only now is the directory ours to write: a refused resume has left it as it was.
        self._owned = True
        self._run.write_config(self._described_config())
        self._write_status("running")
        self._cleanup.enter_context(trace_crashes(self.path))
        # Drops the rows after the checkpoint, so it follows the restore.
        logger = self._cleanup.enter_context(
            MetricsLogger(
                self.path,
                start_step=self.step,
                logger=self.config.logger,
                config=self._described_config(),
                experiment=experiment(self.config),
                warn=self.warn,
            )
        )
        self._cleanup.enter_context(self._stop)
        self._watching()
        progress = self._cleanup.enter_context(
            Progress(
                self.config.total_steps,
                title=self.config.title(),
                start_step=self.step,
                plain=self.config.plain,
            )
        )
        self._log = TrainingLog(logger, progress, self.stopwatch, every=self.config.log_every)
        for note in (*notes, f"Run directory: {self.path}"):
            self._log.message(note)
        if self.resume is None:
            # so that a run can be resumed, and its policy loaded, from its first second on
            self.save()
        else:
            # whatever became of the policy folder, it now holds the checkpoint's weights
            self._save_network()
        self._saved = time.monotonic()
        self._log.start()
        if self.resume is not None:
            self.save_if_due()  # an evaluation that a stop broke off

    # What the kinds of runs differ in.

    def _prepare(self) -> None:
        """Raise what can fail for reasons of the machine, before anything is written."""

    def _opened(self, run: RunDirectory) -> list[str]:
        """The run directory is there and locked; returns what to tell the user."""
        return []

    def _watching(self) -> None:
        """Signals are heard from here on."""

    def _state(self) -> dict[str, Any]:
        """What a checkpoint holds beside weights and random streams, as ``state_schema`` has it."""
        return {}

    def _take_over(self, found: Restored) -> None:
        """Go on from what ``_state`` gave."""

    def _score(self) -> tuple[float | None, Literal["training", "evaluation"]]:
        """What ranks the checkpoint of this step, and by what measure."""
        return None, "training"

    def _scores_to_log(self) -> Mapping[str, float]:
        """What a row of the log holds beside the means of its updates."""
        return {}

    def _save_network(self) -> None:
        """Write what others use the network by, beside the checkpoint."""

    def _evaluate_if_due(self) -> bool:
        """Whether there was an evaluation: a checkpoint follows it."""
        return False

    # What they share.

    def closing(self, resource: Resource, what: str = "environments") -> Resource:
        """The resource, to be closed with the session, however that ends.

        what  its name in the warning, where closing it fails
        """
        self._cleanup.callback(self._close, resource, what)
        return resource

    def _close(self, resource: _Closeable, what: str) -> None:
        try:
            resource.close()
        except Exception as error:  # what ended the training is to be heard, and all is saved
            self.warn(f"{what} could not be closed: {type(error).__name__}: {error}")

    def poll(self) -> None:
        """Leave, between two steps, where a stop was asked for."""
        if self._stop.requested:
            raise StopTraining

    @property
    def logs_next(self) -> bool:
        """Whether the next ``log`` writes a row: metrics that take work are for these alone."""
        return self._log.due_next

    def _count(self, steps: int, metrics: Mapping[str, float]) -> None:
        self.step += steps
        if self._log.add(steps, metrics):
            self._log.write(self.step, self._scores_to_log())

    def save_if_due(self) -> None:
        """What is due after an update: an evaluation, and a checkpoint after it, at a multiple of
        ``keep_checkpoints_every``, or when ``checkpoint_minutes`` have passed."""
        minutes_passed = time.monotonic() - self._saved >= 60 * self.config.checkpoint_minutes
        if self._failed_saves and not minutes_passed:
            return
        evaluated = self._evaluate_if_due()
        milestone = self._milestone_due()
        if not (evaluated or milestone or minutes_passed):
            return
        try:
            self._write_checkpoint(milestone=milestone)
        except OSError as error:
            self._failed_saves += 1
            self._saved = time.monotonic()
            if self._failed_saves >= FAILED_SAVES:
                raise self._cannot_save(error) from error
            self.warn(
                f"the checkpoint of step {self.step:,} could not be written ({_reason(error)}); "
                f"training goes on, the next attempt follows in "
                f"{self.config.checkpoint_minutes:g} minutes"
            )

    def save(self) -> None:
        """Write the last checkpoint and the policy folder, unless they are there. RunError where
        that fails again and again."""
        for attempt in range(FAILED_SAVES):
            try:
                return self._write_checkpoint(milestone=self._milestone_due())
            except OSError as error:
                if attempt + 1 == FAILED_SAVES:
                    raise self._cannot_save(error) from error
            time.sleep(RETRY_SECONDS)

    def tell(self, text: str) -> None:
        """Tell the user, in the log's own output."""
        self._log.message(text)

    def warn(self, text: str) -> None:
        """Tell the user, whatever state the display is in."""
        if hasattr(self, "_log"):
            self._log.message(f"WARNING: {text}")
        else:
            warnings.warn(text, stacklevel=2)

    def warn_once(self, text: str) -> None:
        """``warn``, unless it was told this before."""
        if text not in self._told:
            self._told.add(text)
            self.warn(text)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stopped = isinstance(error, StopTraining)
        # the display goes first: it would draw over whatever is said next
        with self._cleanup:
            if self._owned:
                state: RunState = "failed"
                try:
                    if hasattr(self, "_log"):
                        self._log.write(self.step, self._scores_to_log())
                    if stopped:
                        self.save()
                    if stopped or isinstance(error, KeyboardInterrupt):
                        state = "stopped"
                    elif error is None:
                        state = "finished"
                except KeyboardInterrupt:  # Ctrl-C again, while saving
                    state = "stopped"
                    raise
                finally:
                    self._write_status(state)
                    self._leaving()
        if self._owned and self._stop.requested and (stopped or error is None):
            with suppress(OSError):
                print(
                    f"Stopped at step {self.step:,}. Go on with: fwp-rl train --resume {self.path}"
                    + import_flags()
                )
            if self._stop.exit_code == 130:
                raise KeyboardInterrupt from None
            raise SystemExit(self._stop.exit_code) from None

    def _leaving(self) -> None:
        """The loop is over, and what it used is about to be closed."""

    @property
    def _directory(self) -> RunDirectory:
        if self._run is None:
            raise RuntimeError("the session has not begun: call begin(policy, optimizer) first")
        return self._run

    def _milestone_due(self) -> bool:
        """Whether a multiple of ``keep_checkpoints_every`` was passed since the last one kept."""
        every = self.config.keep_checkpoints_every
        return every is not None and self.step // every > self._milestone // every

    def _write_checkpoint(self, *, milestone: bool) -> None:
        """OSError where it cannot be written."""
        if self._saved_step == self.step and not milestone:
            return
        if not RunDirectory.is_run(self.path):
            raise FileNotFoundError(ENOENT, "the run directory is gone", str(self.path))
        score, measure = self._score()
        kept = self.step if milestone else self._milestone
        save_checkpoint(
            self._directory.checkpoints,
            step=self.step,
            policy=self._network,
            optimizer=self._optimizer,
            state={**self._state(), "milestone": kept, "sessions": self._identity["sessions"]},
            generators=self._generators,
            tracked=self._tracked,
            run={"id": self._identity["id"], "config": self._described_config()},
            score=score,
            measure=None if score is None else measure,
            milestone=milestone,
        )
        self._save_network()
        self._write_status("running")
        self._milestone, self._failed_saves = kept, 0
        self._saved, self._saved_step = time.monotonic(), self.step

    def _cannot_save(self, error: OSError) -> RunError:
        return RunError(
            f"{self.path}: {FAILED_SAVES} checkpoints in a row could not be written "
            f"({_reason(error)}). The older ones are as they were; mend the disk, then go on with "
            f"fwp-rl train --resume {self.path}{import_flags()}"
        )

    def _write_status(self, state: RunState) -> None:
        """A status that cannot be written is no reason to lose the training."""
        if not RunDirectory.is_run(self.path):
            return  # nor is a directory that somebody has removed to be made again
        try:
            self._directory.write_status(
                state,
                step=self.step,
                total=self.config.total_steps,
                device=self.device,
                run=self._identity,
            )
        except OSError as error:
            self.warn(f"{self._directory.status} could not be written ({_reason(error)})")

    def _agent(self) -> str:
        return AGENTS.name_of(type(self.config))

    def _core(self) -> str:
        return CORES.name_of(type(self.config.core))

    def _new_directory(self) -> RunDirectory:
        if self.config.run_dir is not None:
            return RunDirectory.create(self.config.run_dir)
        name = default_run_name(
            self._agent(),
            game=self.config.subject(),
            core=self._core(),
            seed=self.config.seed,
            now=datetime.now(),
        )
        return RunDirectory.create_default("runs", name)

    def _described_config(self) -> dict[str, Any]:
        return config_to_dict(dataclasses.replace(self.config, run_dir=str(self.path)))

    def _restore(self) -> list[str]:
        """Take everything over from the newest good checkpoint; returns what to tell the user."""
        found = restore(
            self._directory,
            self.config,
            self._network,
            self._optimizer,
            self._generators,
            self._tracked,
            schema=self.state_schema,
        )
        checkpoint, state = found.checkpoint, found.state
        sessions = [state.sessions]
        if found.identity is not None:
            self._identity = dict(found.identity)
            known = found.identity.get("sessions")
            sessions.append(known if type(known) is int else 1)
        elif checkpoint.run_id is not None:
            self._identity["id"] = checkpoint.run_id
        self._identity["sessions"] = 1 + max(sessions)
        self.step = self._saved_step = checkpoint.step
        # a run that never said when is not due for all that lies behind it
        self._milestone = checkpoint.step if state.milestone is None else state.milestone
        self._take_over(found)
        return found.notes


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
