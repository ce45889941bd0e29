"""What surrounds an agent's training loop: the run directory and its lock, seeds, log, display,
checkpoints, evaluations, resuming and stopping. The loop itself stands in the agent's own file.
"""

import dataclasses
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from errno import ENOENT
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar

import torch

from fwp_rl.cores import CORES
from fwp_rl.envs import Game
from fwp_rl.machine import (
    choose_device,
    keep_freed_memory,
    limit_threads,
    set_gpu_arithmetic,
)
from fwp_rl.models.policy import Policy
from fwp_rl.rl.collector import Stopwatch
from fwp_rl.rl.pulse import Pulse
from fwp_rl.runs.checkpoint import save_checkpoint
from fwp_rl.runs.config import AGENTS, TrainConfig
from fwp_rl.runs.crashes import trace_crashes
from fwp_rl.runs.directory import RunDirectory, RunError, RunState, default_run_name
from fwp_rl.runs.identity import new_identity
from fwp_rl.runs.metrics import MetricsLogger
from fwp_rl.runs.policy import save_policy
from fwp_rl.runs.presets import config_to_dict
from fwp_rl.runs.seeding import derive_seed, env_seeds, seed_everything
from fwp_rl.runs.signals import StopRequest, StopTraining
from fwp_rl.runs.views import check_logger
from fwp_rl.terminal import Progress
from fwp_rl.training.evaluations import Evaluations
from fwp_rl.training.log import TrainingLog
from fwp_rl.training.restoring import restore
from fwp_rl.training.scores import TrainingScores
from fwp_rl.training.watchdog import Watchdog

__all__ = ["TrainingSession"]


class _Closeable(Protocol):
    def close(self) -> None: ...


Resource = TypeVar("Resource", bound=_Closeable)

FAILED_SAVES = 3
"""So many checkpoints in a row that cannot be written end a run."""

RETRY_SECONDS = 2.0
"""Between two attempts to write the last checkpoint."""


class TrainingSession:
    """One process's share of a run, from its start or from a checkpoint.

        with TrainingSession(config, resume=resume) as session:
            policy, optimizer = ...
            session.begin(policy, optimizer)
            while session.step < config.total_steps:
                with session.playing():
                    ...  # environments step here, and here alone
                ...
                session.log(steps, games, metrics)
                session.save_if_due()
            session.save()

    A stop signal leaves through StopTraining: between two steps of play, or where the next begins.
    Leaving the context then saves, and raises KeyboardInterrupt (Ctrl-C) or SystemExit(143).
    """

    def __init__(self, config: TrainConfig, *, resume: Path | None = None) -> None:
        self.config = config
        self.resume = resume
        self.device = choose_device(config.device)
        set_gpu_arithmetic(config.matmul_precision)
        limit_threads()  # who trains from Python has imported torch before anybody could
        self.step = 0
        """Environment steps with mask 1 so far."""
        self.stopwatch = Stopwatch()
        self._generators: dict[str, torch.Generator] = {}
        if config.keep_memory:
            keep_freed_memory()
        seed_everything(config.seed)
        self._stop = StopRequest()
        self._watchdog = Watchdog(self._stop, hang_seconds=config.hang_seconds, rescue=self._rescue)
        self._cleanup = ExitStack()
        self._scores = TrainingScores(config.env, config.num_envs)
        self._milestone = 0
        self._told: set[str] = set()
        self._saved = time.monotonic()
        self._saved_step = -1
        self._failed_saves = 0
        self._run: RunDirectory | None = None
        self._owned = False  # locked and begun: what a refused resume finds stays as it is
        # Held but while environments step: who has it may read the weights and save them.
        self._weights = Lock()
        self._weights.acquire()

    @property
    def path(self) -> Path:
        """The run directory; exists from ``begin`` on."""
        return self._directory.path

    def __enter__(self) -> "TrainingSession":
        return self

    def generator(self, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A random stream of the run, which its checkpoints hold; ask for it before ``begin``."""
        generator = torch.Generator(device)
        generator.manual_seed(derive_seed(self.config.seed, stream))
        self._generators[stream] = generator
        return generator

    def begin(self, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
        """Make or reopen the run directory, restore what a resumed run had, and start the display.

        RunError where the directory cannot be used, CheckpointError where nothing in it can. An
        environment that cannot be made raises its own error, before anything is written.
        """
        # The order is a protocol. The caller has made the policy, the optimizer and the random
        # streams, which a checkpoint is about to fill; it makes environments and actors only
        # after this, for their seeds depend on the step that a resumed run starts at.
        # First, what can fail for reasons of the machine fails before anything is written.
        if self.resume is None:  # a run that goes on does so without its view
            check_logger(self.config.logger)
        self.config.env.make(1, [0]).close()
        if self.resume is None:
            self._run = self._new_directory()
        else:
            self._run = RunDirectory.open(self.resume)
        # The lock comes before the checkpoint is read: nobody replaces it meanwhile.
        self._cleanup.enter_context(self._run.lock())
        terms = self.config.env.terms()
        notes = [] if terms is None else [terms]
        self._policy, self._optimizer = policy, optimizer
        self._identity = new_identity()
        self._evaluations = Evaluations(self.config, self._run, self.device)
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
                warn=self.warn,
            )
        )
        self._cleanup.enter_context(self._stop)
        self._cleanup.callback(self._watchdog.end)
        self._evaluating = self.watch(Pulse("the evaluation's environments", self.poll))
        self._watchdog.start()
        core = CORES.name_of(type(self.config.core))
        progress = self._cleanup.enter_context(
            Progress(
                self.config.total_steps,
                title=f"{self._task()}, {core}",
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
            self._save_policy()
        self._saved = time.monotonic()
        self._log.start()
        if self.resume is not None:
            self.save_if_due()  # an evaluation that a stop broke off

    def env_seeds(self, count: int) -> list[int]:
        """Seeds for ``count`` environments. A resumed run plays new episodes: emulators cannot be
        saved, and the seeds of the start would replay what the policy has seen. It does so in each
        of its sessions, or an episode that ends a session would end the next one too."""
        stream = "train"
        if self.resume is not None:
            stream = f"resume-{self.step}-{self._identity['sessions']}"
        return env_seeds(self.config.seed, count, stream=stream)

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

    def watch(self, pulse: Pulse) -> Pulse:
        """Have a player's silence noticed."""
        self._watchdog.watch(pulse)
        return pulse

    def poll(self) -> None:
        """Leave, between two steps of play, where a stop was asked for or a player hangs."""
        if self._stop.requested:
            raise StopTraining
        if self._watchdog.problem is not None:
            raise self._watchdog.problem

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Where environments are made and step. Whatever fails in here has not touched the weights:
        they are saved before the error goes on, and may be from another thread while a step
        hangs."""
        try:
            self.poll()
            with self._weights_at_rest():
                yield
        except SystemExit as error:  # of one that is being made
            self._save_after_failure()
            raise RuntimeError(f"an environment asked to end the process: {error!r}") from error
        except KeyboardInterrupt:  # an environment's own, unless it was asked for twice
            if not self._stop.insisted:
                self._save_after_failure()
            raise
        except Exception:
            self._save_after_failure()
            raise

    def log(self, steps: int, games: Sequence[Game], metrics: Mapping[str, float]) -> None:
        """Count ``steps`` environment steps; at every ``log_every``-th update write the means of
        what was logged since the last row."""
        self.step += steps
        self._scores.enter(games)
        if self._log.add(steps, metrics):
            self._log.write(self.step, self._scores.metrics())

    @property
    def logs_next(self) -> bool:
        """Whether the next ``log`` writes a row: metrics that take work are for these alone."""
        return self._log.due_next

    def save_if_due(self) -> None:
        """What is due after an update: an evaluation, and a checkpoint after it, at a multiple of
        ``keep_checkpoints_every``, or when ``checkpoint_minutes`` have passed."""
        minutes_passed = time.monotonic() - self._saved >= 60 * self.config.checkpoint_minutes
        if self._failed_saves and not minutes_passed:
            return
        evaluation = self._evaluations.due(self.step)
        if evaluation:
            self._evaluate()
        milestone = self._milestone_due()
        if not (evaluation or milestone or minutes_passed):
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
                        self._log.write(self.step, self._scores.metrics())
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
                    self._watchdog.closing = True
        if self._owned and self._stop.requested and (stopped or error is None):
            with suppress(OSError):
                print(
                    f"Stopped at step {self.step:,}. Go on with: fwp-rl train --resume {self.path}"
                )
            if self._stop.exit_code == 130:
                raise KeyboardInterrupt from None
            raise SystemExit(self._stop.exit_code) from None

    @property
    def _directory(self) -> RunDirectory:
        if self._run is None:
            raise RuntimeError("the session has not begun: call begin(policy, optimizer) first")
        return self._run

    @contextmanager
    def _weights_at_rest(self) -> Iterator[None]:
        """While in here nothing changes what a checkpoint holds, and the watchdog may save it."""
        self._weights.release()
        try:
            yield
        finally:
            self._weights.acquire()

    def _save_after_failure(self) -> None:
        """Save what was learned before an error that goes on; one more is only told."""
        try:
            self.save()
        except Exception as error:
            self.warn(f"and what was learned since the last checkpoint is lost: {error}")

    def _rescue(self, state: RunState, said: str) -> bool:
        """The watchdog's: save while the loop is stuck in an environment's step. False where it has
        come out of it."""
        if not self._weights.acquire(timeout=1):
            return False
        try:
            self.warn(said)
            self._save_after_failure()
            self._write_status(state)
            return True
        finally:
            self._weights.release()

    def _evaluate(self) -> None:
        start = time.monotonic()
        with self.playing():
            result = self._evaluations.evaluate(
                self._policy, self.step, pulse=self._evaluating, run=self._identity, warn=self.warn
            )
        self._saved_step = -1  # the checkpoint of this step, if there is one, lacks the score
        self._log.evaluation(self.step, result, time.monotonic() - start)

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
            policy=self._policy,
            optimizer=self._optimizer,
            state={
                **self._scores.state(),
                "evaluated": self._evaluations.step,
                "milestone": kept,
                "sessions": self._identity["sessions"],
            },
            generators=self._generators,
            run={"id": self._identity["id"], "config": self._described_config()},
            score=score,
            measure=None if score is None else measure,
            milestone=milestone,
        )
        self._save_policy()
        self._write_status("running")
        self._milestone, self._failed_saves = kept, 0
        self._saved, self._saved_step = time.monotonic(), self.step

    def _cannot_save(self, error: OSError) -> RunError:
        return RunError(
            f"{self.path}: {FAILED_SAVES} checkpoints in a row could not be written "
            f"({_reason(error)}). The older ones are as they were; mend the disk, then go on with "
            f"fwp-rl train --resume {self.path}"
        )

    def _save_policy(self) -> None:
        metadata = {
            "agent": AGENTS.name_of(type(self.config)),
            "seed": self.config.seed,
            "step": self.step,
            "training_return": self._scores.score,
            "run": self._identity,
        }
        save_policy(self._directory.policy, self._policy, env=self.config.env, metadata=metadata)

    def _score(self) -> tuple[float | None, Literal["training", "evaluation"]]:
        """What ranks the checkpoint of this step, and by what measure."""
        if self.config.evaluate_every is None:
            return self._scores.score, "training"
        now = self._evaluations.step == self.step
        return (self._evaluations.mean if now else None), "evaluation"

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

    def _task(self) -> str:
        return self.config.env.spec().name.rpartition("/")[2]

    def _new_directory(self) -> RunDirectory:
        if self.config.run_dir is not None:
            return RunDirectory.create(self.config.run_dir)
        name = default_run_name(
            AGENTS.name_of(type(self.config)),
            game=self._task(),
            core=CORES.name_of(type(self.config.core)),
            seed=self.config.seed,
            now=datetime.now(),
        )
        return RunDirectory.create_default("runs", name)

    def _described_config(self) -> dict[str, Any]:
        return config_to_dict(dataclasses.replace(self.config, run_dir=str(self.path)))

    def _restore(self) -> list[str]:
        """Take everything over from the newest good checkpoint; returns what to tell the user."""
        found = restore(
            self._directory, self.config, self._policy, self._optimizer, self._generators
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
        self._scores.restore(state.games, state.blocks)
        # a run that never said when is not due for all that lies behind it
        self._milestone = checkpoint.step if state.milestone is None else state.milestone
        evaluated = checkpoint.step if state.evaluated is None else state.evaluated
        mean = checkpoint.score if checkpoint.measure == "evaluation" else None
        self._evaluations.restore(checkpoint.step, evaluated, mean)
        return found.notes


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
