"""What surrounds an agent's training loop beside what any run has: environments that step and may
hang, scores of games, evaluations and the policy folder. The loop itself stands in the agent's own
file.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal

from pydantic import Field

from fwp_rl.envs import Game
from fwp_rl.machine import set_gpu_arithmetic
from fwp_rl.models.policy import Policy
from fwp_rl.rl.pulse import Pulse
from fwp_rl.runs.config import TrainConfig
from fwp_rl.runs.directory import RunDirectory, RunState
from fwp_rl.runs.policy import policy_name, save_policy
from fwp_rl.runs.seeding import env_seeds
from fwp_rl.training.evaluations import Evaluations
from fwp_rl.training.restoring import Count, Restored, SessionState
from fwp_rl.training.run_session import RunSession
from fwp_rl.training.scores import TrainingScores
from fwp_rl.training.watchdog import Watchdog

__all__ = ["TrainingSession"]


class GamesState(SessionState):
    """What a checkpoint of an agent holds beside what any holds."""

    games: Count
    """That have ended."""
    blocks: Annotated[list[dict[str, float]], Field(max_length=1000, default_factory=list)]
    """Of finished games: their means. Runs that scored the last games to end have none."""
    evaluated: Count | None = None
    """Step of the last evaluation."""


class TrainingSession(RunSession):
    """One process's share of an agent's run, from its start or from a checkpoint.

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
    ``step`` counts environment steps with mask 1. An environment that cannot be made raises its own
    error in ``begin``, before anything is written.
    """

    config: TrainConfig
    state_schema = GamesState
    _network: Policy

    def __init__(self, config: TrainConfig, *, resume: Path | None = None) -> None:
        super().__init__(config, resume=resume)
        set_gpu_arithmetic(config.matmul_precision)
        self._watchdog = Watchdog(self._stop, hang_seconds=config.hang_seconds, rescue=self._rescue)
        self._scores = TrainingScores(config.env, config.num_envs)
        # Held but while environments step: who has it may read the weights and save them.
        self._weights = Lock()
        self._weights.acquire()

    def env_seeds(self, count: int) -> list[int]:
        """Seeds for ``count`` environments. A resumed run plays new episodes: emulators cannot be
        saved, and the seeds of the start would replay what the policy has seen. It does so in each
        of its sessions, or an episode that ends a session would end the next one too."""
        stream = "train"
        if self.resume is not None:
            stream = f"resume-{self.step}-{self._identity['sessions']}"
        return env_seeds(self.config.seed, count, stream=stream)

    def watch(self, pulse: Pulse) -> Pulse:
        """Have a player's silence noticed."""
        self._watchdog.watch(pulse)
        return pulse

    def poll(self) -> None:
        """Leave, between two steps of play, where a stop was asked for or a player hangs."""
        super().poll()
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
        self._scores.enter(games)
        self._count(steps, metrics)

    def _prepare(self) -> None:
        policy_name(self._network)
        self.config.env.make(1, [0]).close()

    def _opened(self, run: RunDirectory) -> list[str]:
        self._evaluations = Evaluations(self.config, run, self.device)
        terms = self.config.env.terms()
        return [] if terms is None else [terms]

    def _watching(self) -> None:
        self._cleanup.callback(self._watchdog.end)
        self._evaluating = self.watch(Pulse("the evaluation's environments", self.poll))
        self._watchdog.start()

    def _leaving(self) -> None:
        self._watchdog.closing = True

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

    def _evaluate_if_due(self) -> bool:
        if not self._evaluations.due(self.step):
            return False
        start = time.monotonic()
        with self.playing():
            result = self._evaluations.evaluate(
                self._network, self.step, pulse=self._evaluating, run=self._identity, warn=self.warn
            )
        self._saved_step = -1  # the checkpoint of this step, if there is one, lacks the score
        self._log.evaluation(self.step, result, time.monotonic() - start)
        return True

    def _save_network(self) -> None:
        metadata = {
            "agent": self._agent(),
            "seed": self.config.seed,
            "step": self.step,
            "training_return": self._scores.score,
            "run": self._identity,
        }
        save_policy(self._directory.policy, self._network, env=self.config.env, metadata=metadata)

    def _scores_to_log(self) -> Mapping[str, float]:
        return self._scores.metrics()

    def _score(self) -> tuple[float | None, Literal["training", "evaluation"]]:
        if self.config.evaluate_every is None:
            return self._scores.score, "training"
        now = self._evaluations.step == self.step
        return (self._evaluations.mean if now else None), "evaluation"

    def _state(self) -> dict[str, Any]:
        return {**self._scores.state(), "evaluated": self._evaluations.step}

    def _take_over(self, found: Restored) -> None:
        checkpoint, state = found.checkpoint, found.state
        assert isinstance(state, GamesState)
        self._scores.restore(state.games, state.blocks)
        evaluated = checkpoint.step if state.evaluated is None else state.evaluated
        mean = checkpoint.score if checkpoint.measure == "evaluation" else None
        self._evaluations.restore(checkpoint.step, evaluated, mean)
