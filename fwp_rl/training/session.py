"""What surrounds an agent's training loop: the run directory and its lock, seeds, log, display,
checkpoints, resuming and stopping. The loop itself stands in the agent's own file.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

import torch
from torch import nn

from fwp_rl.cores import CORES
from fwp_rl.envs import Game
from fwp_rl.machine import choose_device, keep_freed_memory, limit_threads
from fwp_rl.models.policy import Policy
from fwp_rl.rl.collector import Stopwatch
from fwp_rl.runs.checkpoint import newest_good, save_checkpoint
from fwp_rl.runs.config import AGENTS, TrainConfig
from fwp_rl.runs.directory import RunDirectory, RunError, RunState, default_run_name
from fwp_rl.runs.metrics import MetricsLogger
from fwp_rl.runs.policy import save_policy
from fwp_rl.runs.presets import bookkeeping, config_to_dict, first_change, load_preset
from fwp_rl.runs.seeding import derive_seed, env_seeds, seed_everything
from fwp_rl.runs.signals import StopRequest
from fwp_rl.runs.views import check_logger
from fwp_rl.terminal import Progress

__all__ = ["TrainingSession"]


class _Closeable(Protocol):
    def close(self) -> None: ...


Resource = TypeVar("Resource", bound=_Closeable)

RESUME_MAY_CHANGE = ("total_steps",)
"""What a resumed run may set anew beside the fields that are bookkeeping."""

RECENT_GAMES = 100
"""Games that the logged return and length are means of."""

SCORED_GAMES = 20
"""Games it takes before a checkpoint gets a score."""


class TrainingSession:
    """One process's share of a run, from its start or from a checkpoint.

        with TrainingSession(config, resume=resume) as session:
            policy, optimizer = ...
            session.begin(policy, optimizer)
            while session.step < config.total_steps and not session.stop_requested:
                ...
                session.log(steps, games, metrics)
                session.save_if_due(policy, optimizer)
            session.save(policy, optimizer)

    Leaving the context after a stop signal raises KeyboardInterrupt (Ctrl-C) or SystemExit(143).
    """

    def __init__(self, config: TrainConfig, *, resume: Path | None = None) -> None:
        self.config = config
        self.resume = resume
        self.device = choose_device(config.device)
        limit_threads()  # who trains from Python has imported torch before anybody could
        self.step = 0
        """Environment steps with mask 1 so far."""
        self.stopwatch = Stopwatch()
        self._generators: dict[str, torch.Generator] = {}
        if config.keep_memory:
            keep_freed_memory()
        seed_everything(config.seed)
        self._stop = StopRequest()
        self._cleanup = ExitStack()
        self._games = 0
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT_GAMES)
        self._successes: deque[bool] = deque(maxlen=RECENT_GAMES)
        self._logged = self._saved = time.monotonic()
        self._saved_step = -1
        self._run: RunDirectory | None = None
        self._owned = False  # locked and begun: what a refused resume finds stays as it is

    @property
    def path(self) -> Path:
        """The run directory; exists from ``begin`` on."""
        return self._directory.path

    @property
    def stop_requested(self) -> bool:
        return self._stop.requested

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
        if self.resume is None:  # a run under way goes on without its curves
            check_logger(self.config.logger)
        self.config.env.make(1, [0]).close()
        if self.resume is None:
            self._run = RunDirectory.create(self.config.run_dir or self._default_directory())
        else:
            self._run = RunDirectory.open(self.resume)
        # The lock comes before the checkpoint is read: nobody replaces it meanwhile.
        self._cleanup.enter_context(self._run.lock())
        terms = self.config.env.terms()
        notes = [] if terms is None else [terms]
        if self.resume is not None:
            notes += self._restore(policy, optimizer)
        # Only now is the directory ours to write: a refused resume has left it as it was.
        self._owned = True
        self._run.write_config(config_to_dict(self._described_config()))
        self._write_status("running")
        # Drops the rows after the checkpoint, so it follows the restore.
        self._logger = self._cleanup.enter_context(
            MetricsLogger(
                self.path,
                start_step=self.step,
                logger=self.config.logger,
                config=config_to_dict(self._described_config()),
            )
        )
        self._cleanup.enter_context(self._stop)
        core = CORES.name_of(type(self.config.core))
        self._progress = self._cleanup.enter_context(
            Progress(
                self.config.total_steps,
                title=f"{self._task()}, {core}",
                start_step=self.step,
                plain=self.config.plain,
            )
        )
        for note in (*notes, f"Run directory: {self.path}"):
            self._progress.message(note)
        if self.resume is None:
            # so that a run can be resumed, and its policy loaded, from its first second on
            self.save(policy, optimizer)
        else:
            # whatever became of the policy folder, it now holds the checkpoint's weights
            self._save_policy(policy)
        # What came before is no training: the first row's speed starts here.
        self._logged = self._saved = time.monotonic()
        self.stopwatch.take()

    def env_seeds(self, count: int) -> list[int]:
        """Seeds for ``count`` environments. A resumed run plays new episodes: emulators cannot be
        saved, and the seeds of the start would replay what the policy has seen."""
        stream = "train" if self.resume is None else f"resume-{self.step}"
        return env_seeds(self.config.seed, count, stream=stream)

    def closing(self, resource: Resource) -> Resource:
        """The environment or actors, to be closed with the session, however that ends."""
        return self._cleanup.enter_context(closing(resource))

    def log(self, steps: int, games: Sequence[Game], metrics: Mapping[str, float]) -> None:
        """Count ``steps`` environment steps and write the metrics of one iteration."""
        self.step += steps
        self._games += len(games)
        self._recent += [(game.episode_return, game.length) for game in games]
        judged = (self.config.env.success(game) for game in games)
        self._successes += [success for success in judged if success is not None]
        now = time.monotonic()
        elapsed, self._logged = now - self._logged, now
        row = dict(metrics)
        if self._recent:
            returns, lengths = zip(*self._recent, strict=True)
            row["charts/episode_return"] = sum(returns) / len(returns)
            row["charts/episode_length"] = sum(lengths) / len(lengths)
        if self._successes:
            row["charts/success_rate"] = sum(self._successes) / len(self._successes)
        row["charts/games"] = self._games
        row["charts/steps_per_second"] = steps / elapsed
        for activity, seconds in self.stopwatch.take().items():
            row[f"time/{activity}"] = seconds / elapsed
        self._logger.log(self.step, row)
        self._progress.update(self.step, row)

    def save_if_due(self, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
        """Save when the configured minutes have passed since the last time."""
        if time.monotonic() - self._saved >= 60 * self.config.checkpoint_minutes:
            self.save(policy, optimizer)

    def save(self, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint and the policy folder of this step, unless they are there."""
        if self._saved_step == self.step:
            return
        save_checkpoint(
            self._directory.checkpoints,
            step=self.step,
            policy=policy,
            optimizer=optimizer,
            state={
                "games": self._games,
                "recent": [list(game) for game in self._recent],
                "successes": list(self._successes),
            },
            generators=self._generators,
            score=self._score(),
        )
        self._save_policy(policy)
        self._write_status("running")
        self._saved, self._saved_step = time.monotonic(), self.step

    def _save_policy(self, policy: Policy) -> None:
        metadata = {
            "agent": AGENTS.name_of(type(self.config)),
            "seed": self.config.seed,
            "step": self.step,
            "training_return": self._score(),
        }
        save_policy(self._directory.policy, policy, env=self.config.env, metadata=metadata)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # the display goes first: it would draw over whatever is said next
        with self._cleanup:
            if self._owned:
                state: RunState = "finished"
                if self.stop_requested or isinstance(error, KeyboardInterrupt):
                    state = "stopped"
                elif error is not None:
                    state = "failed"
                self._write_status(state)
        if self._owned and self.stop_requested and error is None:
            print(f"Stopped at step {self.step:,}. Go on with: fwp-rl train --resume {self.path}")
            if self._stop.exit_code == 130:
                raise KeyboardInterrupt
            raise SystemExit(self._stop.exit_code)

    @property
    def _directory(self) -> RunDirectory:
        if self._run is None:
            raise RuntimeError("the session has not begun: call begin(policy, optimizer) first")
        return self._run

    def _write_status(self, state: RunState) -> None:
        self._directory.write_status(
            state, step=self.step, total=self.config.total_steps, device=self.device
        )

    def _task(self) -> str:
        return self.config.env.spec().name.rpartition("/")[2]

    def _default_directory(self) -> Path:
        name = default_run_name(
            AGENTS.name_of(type(self.config)),
            game=self._task(),
            core=CORES.name_of(type(self.config.core)),
            seed=self.config.seed,
            now=datetime.now(),
        )
        return Path("runs") / name

    def _described_config(self) -> TrainConfig:
        return dataclasses.replace(self.config, run_dir=str(self.path))

    def _restore(self, policy: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
        """Take everything over from the newest good checkpoint; returns what to tell the user."""
        before = load_preset(str(self._directory.config))
        self._refuse_changes(before)
        notes: list[str] = []
        checkpoint = newest_good(
            self._directory.checkpoints, warn=lambda text: notes.append(f"WARNING: {text}")
        )
        if checkpoint is None:
            raise RunError(
                f"{self.path}: holds no checkpoint to resume from, so nothing is lost: delete it, "
                "or start a new run in another --run-dir"
            )
        checkpoint.restore(policy, optimizer, self._generators)
        self.step = self._saved_step = checkpoint.step
        self._games = checkpoint.state["games"]
        self._recent += [(float(r), int(n)) for r, n in checkpoint.state["recent"]]
        self._successes += checkpoint.state.get("successes", [])
        notes.append(f"Resumed at step {self.step:,} from {checkpoint.path}")
        if self.config.total_steps != before.total_steps:
            notes.append(
                f"total_steps is now {self.config.total_steps:,} (was {before.total_steps:,}): an "
                "annealed learning rate goes on along the line that ends there"
            )
        if self.step >= self.config.total_steps:
            notes.append(
                f"The run is complete at {self.config.total_steps:,} steps; extend it with a "
                "larger --total-steps"
            )
        return notes

    def _refuse_changes(self, before: TrainConfig) -> None:
        asked = self.config.run_dir
        if asked is not None and asked not in (before.run_dir, str(self.path)):
            raise RunError(
                f"{self.path}: a resumed run goes on in its own directory; leave --run-dir out"
            )
        changed = first_change(before, self.config, without=RESUME_MAY_CHANGE)
        if changed is not None:
            name, was, asked_for = changed
            allowed = sorted({*RESUME_MAY_CHANGE, *bookkeeping(self.config)} - {"run_dir"})
            raise RunError(
                f"{self.path}: was trained with {name} = {was!r}, asked for is {asked_for!r}. A "
                f"resumed run may change {', '.join(allowed)}; start a new run for anything else"
            )

    def _score(self) -> float | None:
        if len(self._recent) < SCORED_GAMES:
            return None
        return sum(episode_return for episode_return, _ in self._recent) / len(self._recent)
