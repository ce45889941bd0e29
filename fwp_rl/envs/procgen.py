"""Procgen through envpool: games whose levels are drawn anew, 64 x 64 in colour.

Cobbe et al., "Leveraging Procedural Generation to Benchmark Reinforcement Learning" (2020). The
``Memory`` distributions show only what is near the agent. On Linux envpool's Procgen needs the
system's Qt 5 libraries; without them ``make`` raises an ImportError that says so.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fwp_rl.config import ConfigError, check_ranges
from fwp_rl.envs.base import ENVS, EnvConfig
from fwp_rl.envs.pool import Pool, PoolEnv
from fwp_rl.registry import shown, suggestion
from fwp_rl.types import EnvSpec

__all__ = ["TASKS", "ProcgenConfig"]

_DISTRIBUTIONS = {
    "Bigfish": "",
    "Bossfight": "",
    "Caveflyer": "Memory Exploration",
    "Chaser": "Extreme",
    "Climber": "Exploration",
    "Coinrun": "Exploration",
    "Dodgeball": "Extreme Memory",
    "Fruitbot": "",
    "Heist": "Memory Exploration",
    "Jumper": "Memory Exploration",
    "Leaper": "Extreme Exploration",
    "Maze": "Memory Exploration",
    "Miner": "Memory",
    "Ninja": "Exploration",
    "Plunder": "",
    "Starpilot": "Extreme",
}
TASKS: tuple[str, ...] = tuple(
    game + distribution
    for game, more in _DISTRIBUTIONS.items()
    for distribution in ("Easy", "Hard", *more.split())
)
"""Every game with its distribution of levels."""


def _canonical_task(name: str) -> str:
    key = re.sub(r"-v0$|[-_ ]", "", name.strip().lower())
    named = {task.lower(): task for task in TASKS}
    if key not in named:
        hint = suggestion(key, TASKS)
        raise ConfigError(
            f"task: got {shown(name)}, expected a game and its distribution of levels, such as "
            f"MazeMemory.{' ' + hint if hint else ''} Games: {', '.join(_DISTRIBUTIONS)}"
        )
    return named[key]


@ENVS.register("procgen")
@dataclass(frozen=True, kw_only=True)
class ProcgenConfig(EnvConfig):
    """A Procgen game: 64 x 64 colour screens, levels drawn anew; on Linux it needs Qt 5."""

    task: str = "MazeMemory"
    """The game and its distribution of levels: Easy, Hard, and in some games Memory, Extreme or
    Exploration."""

    def __post_init__(self) -> None:
        check_ranges(self)
        object.__setattr__(self, "task", _canonical_task(self.task))

    def spec(self) -> EnvSpec:
        return EnvSpec(
            name=f"procgen/{self.task}",
            observation_shape=(3, 64, 64),
            observation_dtype="uint8",
            num_actions=15,
        )

    def frame_rate(self) -> float:
        return 15.0

    def make(
        self,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_threads: int | None = None,
        render: bool = False,
    ) -> PoolEnv:
        pool = Pool(
            f"{self.task}-v0",
            num_envs,
            seeds,
            num_actions=self.spec().num_actions,
            num_threads=num_threads,
            render=render,
        )
        return PoolEnv(self.spec(), pool, np.asarray)
