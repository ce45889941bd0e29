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

    With several keys, one step after another shows a cue under each, and the query asks for that of
    one key. Overwrites follow, one a step: a key, drawn at random, is shown with another cue than
    it has, and the last one counts. The delay is counted from the step that counts, and so has room
    for all that are shown after it.

    The observation, float32 ``[num_cues + 2]``, is the one-hot cue, a flag "this is a cue" and a
    flag "this is the query". With several keys the one-hot key stands before the flags.

    A policy that is fed its own last action could carry the cue from step to step in its actions,
    with no memory of its own: leave that input off, as it is by default.
    """

    num_cues: Annotated[int, Range(2, 256)] = 4
    """Number of cues, and of actions."""
    num_keys: Annotated[int, Range(1, 256)] = 1
    """Number of keys that a cue is shown under each; the query asks for one."""
    overwrites: Annotated[int, Range(0, 1000)] = 0
    """Number of cues that are shown in place of earlier ones."""
    delay: Annotated[int | None, Range(0)] = None
    """Exact number of steps between cue and query; none: min_delay to max_delay."""
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
        name, least = ("min_delay" if self.delay is None else "delay"), self.delays[0]
        if self.num_keys > 1 and least < self.showings - 1:
            raise ConfigError(
                f"{name}: got {least}, expected at least {self.showings - 1}: num_keys "
                f"({self.num_keys}) and overwrites ({self.overwrites}) are shown one a step, and "
                "all but the first may come between a cue and its query"
            )
        if self.delay is not None and self.time_limit is not None:
            needed = self.showings + self.delay + 1
            if self.time_limit < needed:
                raise ConfigError(
                    f"time_limit: got {self.time_limit}, expected at least {needed} with delay "
                    f"{self.delay}: the query would come after the end"
                )

    @property
    def showings(self) -> int:
        """Steps that show a cue."""
        return self.num_keys + self.overwrites

    @property
    def delays(self) -> tuple[int, int]:
        """The least and the greatest delay."""
        return (self.min_delay, self.max_delay) if self.delay is None else (self.delay, self.delay)

    def spec(self) -> EnvSpec:
        keys = self.num_keys if self.num_keys > 1 else 0
        size = self.num_cues + keys + 2
        return EnvSpec(name="recall", observation_shape=(size,), num_actions=self.num_cues)

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
        self._step, self._asked, self._answer, self._query = np.zeros((4, self.num_envs), np.int64)
        self._keys, self._cues = np.zeros((2, self.num_envs, config.showings), np.int64)
        self._begin(np.ones(self.num_envs, np.bool_))

    def reset(self) -> NDArray[np.float32]:
        """The first observations ``[B, *observation_shape]``. Once only."""
        self._lifetime.start()
        self._obs = self._observe()
        return self._books.begin(self._obs)

    def step(self, action: NDArray[Any]) -> EnvStep:
        """Play one action per column. Raises ActionError for anything but B action numbers."""
        self._lifetime.check_started()
        action = check_action(action, self.num_envs, self.spec.num_actions)
        dummy = self._books.dummy
        terminated = ~dummy & (self._step == self._query)
        reward = (terminated & (action == self._answer)).astype(np.float32)
        self._step += 1
        self._begin(dummy)
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
        """[B, *observation_shape]; all zeros after the query."""
        num_cues = self.config.num_cues
        shown, query = self._step < self.config.showings, self._step == self._query
        obs = np.zeros((self.num_envs, *self.spec.observation_shape), np.float32)
        columns = np.flatnonzero(shown)
        steps = self._step[columns]
        obs[columns, self._cues[columns, steps]] = 1
        if self.config.distractors:
            others = np.flatnonzero(~shown & (self._step < self._query))
            obs[others, self._draws.integers(num_cues)[others]] = 1
        if self.config.num_keys > 1:
            obs[columns, num_cues + self._keys[columns, steps]] = 1
            columns = np.flatnonzero(query)
            obs[columns, num_cues + self._asked[columns]] = 1
        obs[:, -2] = shown
        obs[:, -1] = query
        return obs

    def _begin(self, columns: NDArray[np.bool_]) -> None:
        """Draw the episodes that begin in some columns. Every column draws the same number of
        times, or what it shows would depend on when the episodes of others end."""
        config, where = self.config, np.flatnonzero(columns)
        low, high = config.delays
        cue = self._draws.integers(config.num_cues)
        delay = low + self._draws.integers(high - low + 1)
        self._cues[where, 0] = cue[where]
        if config.showings > 1:
            seeds = self._draws.integers(2**63)[where].tolist()
            if seeds:
                self._draw_showings(where, ColumnDraws(seeds))
        asked_for = self._keys[where] == self._asked[where, None]
        last = config.showings - 1 - asked_for[:, ::-1].argmax(axis=1)
        self._answer[where] = self._cues[where, last]
        self._query[where] = last + 1 + delay[where]
        self._step[where] = 0

    def _draw_showings(self, columns: NDArray[np.intp], draws: ColumnDraws) -> None:
        """What follows the first cue, and the key that is asked for."""
        config, held = self.config, np.zeros((self.num_envs, self.config.num_keys), np.int64)
        held[columns, 0] = self._cues[columns, 0]
        for step in range(1, config.showings):
            if step < config.num_keys:
                key = np.full(len(columns), step)
                cue = draws.integers(config.num_cues)
            else:
                key = draws.integers(config.num_keys)
                other = 1 + draws.integers(config.num_cues - 1)
                cue = (held[columns, key] + other) % config.num_cues
            held[columns, key] = self._cues[columns, step] = cue
            self._keys[columns, step] = key
        self._asked[columns] = draws.integers(config.num_keys)


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
