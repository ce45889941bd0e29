"""Classic control and Catch through envpool: seconds to learn, for a first try of anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fwp_rl.config import ConfigError, check_ranges
from fwp_rl.envs.base import ENVS, EnvConfig, Game
from fwp_rl.envs.pool import EndedByItself, Pool, PoolEnv
from fwp_rl.types import EnvSpec

__all__ = ["ClassicConfig"]

_TASKS = {
    "Acrobot-v1": ((6,), 3, 15.0),
    "CartPole-v0": ((4,), 2, 50.0),
    "CartPole-v1": ((4,), 2, 50.0),
    "Catch-v0": ((10, 5), 3, None),
    "MountainCar-v0": ((2,), 3, 30.0),
}
"""Shape of an observation, number of actions, steps per second of a film."""

_RETURNS = {
    "Acrobot-v1": (-500.0, 0.0),
    "CartPole-v0": (0.0, 200.0),
    "CartPole-v1": (0.0, 500.0),
    "Catch-v0": (-1.0, 1.0),
    "MountainCar-v0": (-200.0, 0.0),
}
"""Least and greatest return: a reward of 1 or -1 per step up to the limit, but for Catch."""


_ACTIONS = {
    "Acrobot": ("torque -1", "no torque", "torque +1"),
    "CartPole": ("left", "right"),
    "Catch": ("left", "stay", "right"),
    "MountainCar": ("left", "coast", "right"),
}


def _fell(obs: Any, reward: NDArray[np.float32], info: dict[str, Any]) -> NDArray[np.bool_]:
    """The cart is off its track, or the pole is more than 12 degrees from upright."""
    fell: NDArray[np.bool_] = (abs(obs[:, 0]) > 2.4) | (abs(obs[:, 2]) > np.deg2rad(12))
    return fell


_ENDS: dict[str, EndedByItself] = {
    "Acrobot-v1": lambda obs, reward, info: reward > -1,
    "CartPole-v0": _fell,
    "CartPole-v1": _fell,
    "Catch-v0": lambda obs, reward, info: reward != 0,
    "MountainCar-v0": lambda obs, reward, info: obs[:, 0] >= 0.5,
}


@ENVS.register("classic")
@dataclass(frozen=True, kw_only=True)
class ClassicConfig(EnvConfig):
    """Classic control with discrete actions, and Catch: float32 observations for the encoder mlp.

    Catch (bsuite, Osband et al. 2020) drops a ball through 10 x 5 cells: 1 if caught, else -1.
    """

    task: Literal["Acrobot-v1", "CartPole-v0", "CartPole-v1", "Catch-v0", "MountainCar-v0"] = (
        "CartPole-v1"
    )
    """Name of the task, as Gymnasium has it."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def spec(self) -> EnvSpec:
        shape, num_actions, _ = _TASKS[self.task]
        return EnvSpec(
            name=f"classic/{self.task}", observation_shape=shape, num_actions=num_actions
        )

    def frame_rate(self) -> float | None:
        return _TASKS[self.task][2]

    def action_names(self) -> tuple[str, ...]:
        return _ACTIONS[self.task.partition("-")[0]]

    def success(self, game: Game) -> bool | None:
        """The ball was caught; the other tasks have scores."""
        return game.episode_return > 0 if self.task == "Catch-v0" else None

    def score_bounds(self) -> tuple[float, float]:
        return _RETURNS[self.task]

    def make(
        self,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_threads: int | None = None,
        render: bool = False,
    ) -> PoolEnv:
        if render and self.frame_rate() is None:
            raise ConfigError(f"render: {self.task} has no screen to draw")
        pool = Pool(
            self.task,
            num_envs,
            seeds,
            num_actions=self.spec().num_actions,
            num_threads=num_threads,
            render=render,
        )
        return PoolEnv(
            self.spec(),
            pool,
            lambda obs: np.asarray(obs, np.float32),
            ended_by_itself=_ENDS[self.task],
        )
