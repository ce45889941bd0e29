"""Small NumPy environments: ``recall``, a memory task that learns in seconds, and a scripted one
that plays given episodes, for tests of whatever sits on top of an environment.

Both emit the dummy steps of ``fwp_rl/types.py``, and step all columns at once.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fwp_rl.config import ConfigError, Range, check_ranges
from fwp_rl.envs.base import ENVS, EnvConfig, EnvStep, Game, check_action
from fwp_rl.envs.bookkeeping import Books, ColumnDraws, Lifetime, check_columns, check_render
from fwp_rl.types import EnvSpec

__all__ = ["RecallConfig", "RecallEnv", "ScriptedConfig", "ScriptedEnv", "ScriptedEpisode"]


@ENVS.register("recall")
@dataclass(frozen=True, kw_only=True)
class RecallConfig(EnvConfig):
    """Name the cue that was shown some steps ago.

    Step 0 shows one of ``num_cues`` cues, a delay follows, then a query. At the query the action
    that equals the cue earns 1, any other 0, and the episode ends: the return is the success rate,
    chance is 1 / num_cues, and no policy without memory does better. Earlier actions do nothing.

    The observation, float32 ``[num_cues + 2]``, is the one-hot cue, a flag "this is the cue" and a
    flag "this is the query".

    A policy that is fed its own last action could carry the cue from step to step in its actions,
    with no memory of its own: leave that input off, as it is by default.
    """

    num_cues: Annotated[int, Range(2, 256)] = 4
    """Number of cues, and of actions."""
    min_delay: Annotated[int, Range(0)] = 2
    """Least number of steps between cue and query."""
    max_delay: Annotated[int, Range(0)] = 8
    """Greatest number of steps between cue and query; uniform in between."""
    distractors: bool = False
    """Show random cues, without the cue flag, during the delay, in place of nothing."""
    time_limit: Annotated[int | None, Range(1)] = None
    """Cut episodes after this many steps; none: each reaches its query."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.max_delay < self.min_delay:
            raise ConfigError(
                f"max_delay: got {self.max_delay}, expected at least min_delay = {self.min_delay}"
            )

    def spec(self) -> EnvSpec:
        return EnvSpec(
            name="recall", observation_shape=(self.num_cues + 2,), num_actions=self.num_cues
        )

    def success(self, game: Game) -> bool:
        """The cue was named."""
        return game.episode_return > 0

    def score_bounds(self) -> tuple[float, float]:
        return 0.0, 1.0

    def make(
        self,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_threads: int | None = None,
        render: bool = False,
    ) -> "RecallEnv":
        check_columns(num_envs, seeds, num_threads)
        return RecallEnv(self, seeds, render=render)


class RecallEnv:
    """B columns of the recall task; ``num_threads`` is accepted and not needed."""

    def __init__(self, config: RecallConfig, seeds: Sequence[int], *, render: bool = False) -> None:
        self.config = config
        self.spec = config.spec()
        self.num_envs = len(seeds)
        self._seeds = [int(seed) for seed in seeds]
        self._render = render
        self._lifetime = Lifetime()
        self._books = Books(self.num_envs, self.spec.name)
        self._draws = ColumnDraws(seeds)
        self._step = np.zeros(self.num_envs, np.int64)
        self._cue = self._draws.integers(config.num_cues)
        self._query = self._draw_query()

    def reset(self) -> NDArray[np.float32]:
        """The first observations ``[B, num_cues + 2]``. Once only."""
        self._lifetime.start()
        self._obs = self._observe()
        return self._books.begin(self._obs)

    def step(self, action: NDArray[Any]) -> EnvStep:
        """Play one action per column. Raises ActionError for anything but B action numbers."""
        self._lifetime.check_started()
        action = check_action(action, self.num_envs, self.spec.num_actions)
        dummy = self._books.dummy
        terminated = ~dummy & (self._step == self._query)
        reward = (terminated & (action == self._cue)).astype(np.float32)
        self._step = np.where(dummy, 0, self._step + 1)
        self._cue = np.where(dummy, self._draws.integers(self.config.num_cues), self._cue)
        self._query = np.where(dummy, self._draw_query(), self._query)
        truncated = np.zeros(self.num_envs, np.bool_)
        if self.config.time_limit is not None:
            truncated = ~dummy & ~terminated & (self._step >= self.config.time_limit)
        self._obs = self._observe()
        return self._books.enter(
            self._obs,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            game_end=terminated | truncated,
            game_cut=truncated,
        )

    def render(self, column: int) -> NDArray[np.uint8]:
        """The observation as a row of grey squares."""
        self._lifetime.check_started("render")
        check_render(self._render, column, self.num_envs)
        row = (self._obs[column] * 255).astype(np.uint8)
        return np.repeat(np.kron(row, np.ones((16, 16), np.uint8))[..., None], 3, axis=2)

    def describe(self) -> dict[str, Any]:
        self._lifetime.check_open()
        return {"task_id": "recall", **asdict(self.config), "seeds": self._seeds}

    def close(self) -> None:
        """Nothing was held open."""
        self._lifetime.close()

    def _observe(self) -> NDArray[np.float32]:
        """[B, num_cues + 2]; all zeros after the query."""
        num_cues = self.config.num_cues
        first, query = self._step == 0, self._step == self._query
        obs = np.zeros((self.num_envs, num_cues + 2), np.float32)
        columns = np.flatnonzero(first)
        obs[columns, self._cue[columns]] = 1
        if self.config.distractors:
            columns = np.flatnonzero(~first & (self._step < self._query))
            obs[columns, self._draws.integers(num_cues)[columns]] = 1
        obs[:, -2] = first
        obs[:, -1] = query
        return obs

    def _draw_query(self) -> NDArray[np.int64]:
        low, high = self.config.min_delay, self.config.max_delay
        return 1 + low + self._draws.integers(high - low + 1)


@dataclass(frozen=True, kw_only=True)
class ScriptedEpisode:
    """One episode: its rewards, one per step, and how it ends."""

    rewards: tuple[float, ...]
    end: Literal["terminated", "truncated", "life_lost"] = "terminated"
    """A lost life is a termination after which the game goes on with the next episode."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.rewards:
            raise ConfigError("rewards: got none, expected at least one: an episode has a step")


@dataclass(frozen=True, kw_only=True)
class ScriptedConfig(EnvConfig):
    """Plays given episodes, whatever the actions: for tests, and not registered.

    The observation, float32 ``[3]``, counts: column, episode of the column, step of the episode.
    At a dummy step the count of steps equals the length of the episode.
    """

    columns: tuple[tuple[ScriptedEpisode, ...], ...]
    """The episodes of each column, played over and over; column i plays list i, modulo their
    number."""
    num_actions: Annotated[int, Range(1)] = 3

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.columns or not all(self.columns):
            raise ConfigError("columns: got an empty list, expected at least one episode in each")

    def spec(self) -> EnvSpec:
        return EnvSpec(name="scripted", observation_shape=(3,), num_actions=self.num_actions)

    def make(
        self,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_threads: int | None = None,
        render: bool = False,
    ) -> "ScriptedEnv":
        check_columns(num_envs, seeds, num_threads)
        return ScriptedEnv(self, num_envs, render=render)


class ScriptedEnv:
    """B columns of scripted episodes; seeds change nothing."""

    def __init__(self, config: ScriptedConfig, num_envs: int, *, render: bool = False) -> None:
        self.config = config
        self.spec = config.spec()
        self.num_envs = num_envs
        self._render = render
        self._lifetime = Lifetime()
        self._books = Books(num_envs, self.spec.name)
        self._episode = np.zeros(num_envs, np.int64)
        self._step = np.zeros(num_envs, np.int64)

    def reset(self) -> NDArray[np.float32]:
        """The first observations ``[B, 3]``. Once only."""
        self._lifetime.start()
        return self._books.begin(self._observe())

    def step(self, action: NDArray[Any]) -> EnvStep:
        """Play one step of the script. Raises ActionError as any environment does."""
        self._lifetime.check_started()
        check_action(action, self.num_envs, self.spec.num_actions)
        reward = np.zeros(self.num_envs)
        ends = np.full(self.num_envs, "", dtype="U10")
        for column in range(self.num_envs):
            if self._books.dummy[column]:
                self._episode[column] += 1
                self._step[column] = 0
                continue
            episode = self._current_episode(column)
            reward[column] = episode.rewards[self._step[column]]
            self._step[column] += 1
            if self._step[column] == len(episode.rewards):
                ends[column] = episode.end
        cut = ends == "truncated"
        return self._books.enter(
            self._observe(),
            reward=reward,
            terminated=(ends == "terminated") | (ends == "life_lost"),
            truncated=cut,
            game_end=(ends == "terminated") | cut,
            game_cut=cut,
        )

    def render(self, column: int) -> NDArray[np.uint8]:
        """A grey screen whose level is the step of the episode."""
        self._lifetime.check_started("render")
        check_render(self._render, column, self.num_envs)
        return np.full((32, 32, 3), self._step[column] % 256, np.uint8)

    def describe(self) -> dict[str, Any]:
        self._lifetime.check_open()
        return {"task_id": "scripted", **asdict(self.config)}

    def close(self) -> None:
        """Nothing was held open."""
        self._lifetime.close()

    def _observe(self) -> NDArray[np.float32]:
        counts = [np.arange(self.num_envs), self._episode, self._step]
        return np.stack(counts, axis=1).astype(np.float32)

    def _current_episode(self, column: int) -> ScriptedEpisode:
        script = self.config.columns[column % len(self.config.columns)]
        return script[int(self._episode[column]) % len(script)]
