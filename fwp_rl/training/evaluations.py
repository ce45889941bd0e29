"""Evaluations while a run trains: whole games, in environments of their own, of a copy of the
policy. Nothing that training draws or counts is touched, so a run learns the same with and
without them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fwp_rl.evaluation import play, result_of
from fwp_rl.models.policy import Policy
from fwp_rl.rl.pulse import Pulse
from fwp_rl.runs.config import TrainConfig
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.files import write_json
from fwp_rl.runs.seeding import derive_seed

__all__ = ["Evaluations"]


class Evaluations:
    """A run's evaluations: when the next is due, and what the last one gave."""

    def __init__(self, config: TrainConfig, run: RunDirectory, device: torch.device) -> None:
        self.step = 0
        """Of the last one; 0 before the first."""
        self.mean: float | None = None
        """The last one's mean return; None where this process has made none."""
        self._config = config
        self._run = run
        self._device = device

    def due(self, step: int) -> bool:
        """Whether a multiple of ``evaluate_every`` has been passed since the last one."""
        every = self._config.evaluate_every
        return every is not None and step // every > self.step // every

    def evaluate(
        self,
        policy: Policy,
        step: int,
        *,
        pulse: Pulse,
        run: dict[str, Any],
        warn: Callable[[str], object],
    ) -> dict[str, Any]:
        """Play, and write the result to the run's evaluations/; returns it.

        pulse  beats at every step, and may end the evaluation
        run    the identity of the run, for the result
        warn   is told where the result cannot be written
        """
        # Seeds of their own for each step: were they the same at all of them, or those of `fwp-rl
        # evaluate`, the best checkpoint would be the best at these very games.
        seed = derive_seed(self._config.seed, f"evaluation-{step}") >> 32
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            played = play(
                copy.deepcopy(policy).eval(),
                self._config.env,
                games=self._config.evaluation_games,
                seed=seed,
                device=self._device,
                quiet=True,
                pulse=pulse,
            )
        name = f"step_{step:012d}"
        result = result_of(
            played,
            policy,
            self._config.env,
            where=self._run.path / "checkpoints" / name,
            step=step,
            run=run,
            rule=policy.action_rule,
            checkpoint=name,
            seed=seed,
        )
        try:
            write_json(self._file(step), result)
        except OSError as error:
            warn(f"{self._file(step)} could not be written ({error.strerror})")
        self.step, self.mean = step, result["summary"]["mean"]
        return result

    def restore(self, step: int, evaluated: int, mean: float | None) -> None:
        """Go on from a checkpoint at ``step``, whose own evaluation had this ``mean``. Results of
        later steps are of weights that are no more, and go as the later rows of the log do."""
        self.step, self.mean = evaluated, mean
        for file in self._run.evaluations.glob("training-step_*.json"):
            if file.name > self._file(step).name:
                file.unlink(missing_ok=True)

    def _file(self, step: int) -> Path:
        return self._run.evaluations / f"training-step_{step:012d}.json"
