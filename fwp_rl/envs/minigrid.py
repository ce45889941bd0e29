"""MiniGrid through envpool: grid worlds in which the agent sees 7 x 7 cells before it.

Chevalier-Boisvert et al., "Minigrid & Miniworld" (2023). ``Memory*`` shows an object at the start
of a hallway and asks for it at the end, at a fork with one object to each side. In S7 and S9, and
where the Random ones draw a short hallway, a look back from the fork shows all three objects at
once, so that no memory is needed; in S11 and S13 they are too far apart. The goal earns
1 - 0.9 steps / limit, everything else 0: also the end at the wrong object, or at the blue door of
``RedBlueDoors*`` before the red one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fwp_rl.config import ConfigError, check_ranges
from fwp_rl.envs.base import ENVS, EnvConfig, Game
from fwp_rl.envs.pool import Pool, PoolEnv
from fwp_rl.registry import shown, suggestion
from fwp_rl.types import EnvSpec

__all__ = ["TASKS", "MiniGridConfig"]

TASKS: tuple[str, ...] = (
    "DoorKey-5x5-v0",
    "DoorKey-6x6-v0",
    "DoorKey-8x8-v0",
    "DoorKey-16x16-v0",
    "MemoryS7-v0",
    "MemoryS9-v0",
    "MemoryS11-v0",
    "MemoryS13-v0",
    "MemoryS13Random-v0",
    "MemoryS17Random-v0",
    "ObstructedMaze-1Dl-v0",
    "ObstructedMaze-1Dlh-v0",
    "ObstructedMaze-1Dlhb-v0",
    "ObstructedMaze-2Dl-v0",
    "ObstructedMaze-2Dlh-v0",
    "ObstructedMaze-2Dlhb-v0",
    "ObstructedMaze-2Dlhb-v1",
    "ObstructedMaze-1Q-v0",
    "ObstructedMaze-1Q-v1",
    "ObstructedMaze-2Q-v0",
    "ObstructedMaze-2Q-v1",
    "ObstructedMaze-Full-v0",
    "ObstructedMaze-Full-v1",
    "RedBlueDoors-6x6-v0",
    "RedBlueDoors-8x8-v0",
)
"""Those with one mission, which therefore need no reading; names as Gymnasium's, after
``MiniGrid-``."""

VIEW = 7
CODES = (11, 6, 3)
"""A cell's object, colour and state (open, closed, locked), each one of so many."""
NUM_DIRECTIONS = 4
_OPEN_BLUE_DOOR = (4, 2, 0)
"""A cell's codes. The agent stands in the middle of the view's last row, and what it opens is in
front of it."""


def _canonical_task(name: str) -> str:
    """``MemoryS9-v0`` for MiniGrid-MemoryS9-v0, MemoryS9 or memorys9; without a version the newest
    of the task."""
    key = re.sub(r"^minigrid[-/]", "", name.strip().lower())
    named = {task.lower(): task for task in TASKS}  # v1 stands after v0
    named |= {task.lower().rpartition("-")[0]: task for task in TASKS}
    if key not in named:
        hint = suggestion(key, TASKS)
        raise ConfigError(
            f"task: got {shown(name)}, expected one of {', '.join(TASKS)}."
            f"{' ' + hint if hint else ''}"
        )
    return named[key]


@ENVS.register("minigrid")
@dataclass(frozen=True, kw_only=True)
class MiniGridConfig(EnvConfig):
    """A MiniGrid task: one-hot cells of the 7 x 7 view, and the agent's direction.

    The observation is float32 ``[984]``: 7 x 7 cells of 11 objects + 6 colours + 3 states, then 4
    directions. The 7 actions turn left, turn right, go forward, pick up, drop, toggle, declare
    completion.
    """

    task: str = "MemoryS9-v0"
    """Name of the task: Memory, RedBlueDoors, ObstructedMaze or DoorKey, with size and version."""

    def __post_init__(self) -> None:
        check_ranges(self)
        object.__setattr__(self, "task", _canonical_task(self.task))

    def spec(self) -> EnvSpec:
        return EnvSpec(
            name=f"minigrid/{self.task}",
            observation_shape=(VIEW * VIEW * sum(CODES) + NUM_DIRECTIONS,),
            num_actions=7,
        )

    def frame_rate(self) -> float:
        return 8.0

    def action_names(self) -> tuple[str, ...]:
        return "turn left", "turn right", "forward", "pick up", "drop", "toggle", "done"

    def success(self, game: Game) -> bool:
        """The goal was reached."""
        return game.episode_return > 0

    def score_bounds(self) -> tuple[float, float]:
        return 0.0, 1.0

    def guessed_speed(self) -> float:
        return 5_000.0

    def make(
        self,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_threads: int | None = None,
        render: bool = False,
    ) -> PoolEnv:
        pool = Pool(
            f"MiniGrid-{self.task}",
            num_envs,
            seeds,
            num_actions=self.spec().num_actions,
            num_threads=num_threads,
            render=render,
        )
        return PoolEnv(self.spec(), pool, _one_hot, ended_by_itself=self._ended_by_itself)

    def _ended_by_itself(
        self, obs: dict[str, Any], reward: NDArray[np.float32], info: dict[str, Any]
    ) -> NDArray[np.bool_]:
        """The goal was reached or missed: to be told where envpool calls it truncated."""
        ended: NDArray[np.bool_] = reward > 0
        if memory := re.match(r"MemoryS(\d+)", self.task):
            # behind the first room, only the two ends of the fork lie off the middle row
            column, row = info["agent_pos"].T
            ended = (column > 4) & (row != int(memory[1]) // 2)
        elif self.task.startswith("RedBlueDoors"):
            ended = (obs["image"][:, VIEW // 2, VIEW - 2] == _OPEN_BLUE_DOOR).all(axis=-1)
        return ended


@cache
def _cell_offsets() -> NDArray[np.int64]:
    """Where the ones of each cell's three codes begin in an observation, ``[7 * 7 * 3]``."""
    within = np.cumsum([0, *CODES[:-1]])
    offsets: NDArray[np.int64] = np.arange(VIEW * VIEW)[:, None] * sum(CODES) + within
    return offsets.reshape(-1)


def _one_hot(obs: dict[str, Any]) -> NDArray[np.float32]:
    """image uint8 [B, 7, 7, 3] and direction int32 [B] as float32 [B, 984]."""
    image, direction = obs["image"], obs["direction"]
    size = VIEW * VIEW * sum(CODES)
    vector = np.zeros((len(image), size + NUM_DIRECTIONS), np.float32)
    rows = np.arange(len(image))[:, None]
    vector[rows, image.reshape(len(image), -1) + _cell_offsets()] = 1
    vector[rows[:, 0], size + direction] = 1
    return vector
