"""What the adapters share: the check of their arguments and of what environments answer, the order
of calls, dummy steps, the books on games, and random numbers that belong to a column."""

import os
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fwp_rl.config import ConfigError
from fwp_rl.envs.base import AnswerError, EnvStep, Game

__all__ = ["Books", "ColumnDraws", "Lifetime", "check_columns", "check_render"]

_MAX_SEED = 2**31 - 1
_MAX_REWARD = float(np.finfo(np.float32).max)


def check_columns(num_envs: int, seeds: Sequence[int], num_threads: int | None = None) -> list[int]:
    """The seeds as plain ints, or a ConfigError: ``num_envs`` >= 1 and one int32 >= 0 for each."""
    counts = {"num_envs": num_envs, "num_threads": 1 if num_threads is None else num_threads}
    for name, count in counts.items():
        if not _is_int(count) or count < 1:
            raise ConfigError(f"{name}: got {count!r}, expected a whole number, 1 or more")
    if not isinstance(seeds, (Sequence, np.ndarray)):
        raise ConfigError(f"seeds: got {seeds!r}, expected a sequence of {num_envs} whole numbers")
    if len(seeds) != num_envs:
        raise ConfigError(f"seeds: got {len(seeds)}, expected {num_envs}, one per environment")
    for seed in seeds:
        if not _is_int(seed) or not 0 <= seed <= _MAX_SEED:
            raise ConfigError(f"seeds: got {seed!r}, expected whole numbers, 0 to {_MAX_SEED}")
    return [int(seed) for seed in seeds]


def _is_int(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_render(enabled: bool, column: int, num_envs: int) -> None:
    """Raise unless the environment was built to draw and has this column."""
    if not enabled:
        raise RuntimeError("this environment draws nothing: build it with make(..., render=True)")
    if not _is_int(column) or not 0 <= column < num_envs:
        raise IndexError(f"column: got {column!r}, expected 0 to {num_envs - 1}")


class Lifetime:
    """The order of calls that every adapter keeps: one reset, then steps, nothing after ``close``,
    and all of it in the process that made the environment. RuntimeError otherwise."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._started = False
        self._closed = False

    def start(self) -> None:
        """Enter ``reset()``."""
        self.check_open()
        if self._started:
            raise RuntimeError("reset() was called before: episodes restart by themselves")
        self._started = True

    def check_started(self, call: str = "step") -> None:
        """Refuse a call that needs the first observations."""
        self.check_open()
        if not self._started:
            raise RuntimeError(f"{call}() before reset(): call reset() for the first observations")

    def check_open(self) -> None:
        """Refuse any call to an environment that was closed, or belongs to another process."""
        if self._closed:
            raise RuntimeError("this environment was closed: make a new one")
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"this environment belongs to process {self._pid} and may hang in its forked child "
                f"{os.getpid()}: make it in the process that steps it, and start workers with the "
                "'spawn' method"
            )

    def close(self) -> None:
        """Enter ``close()``, which may come at any time and more than once."""
        self._closed = True


class Books:
    """Remembers which columns play a dummy step next, and sums up the games that are under way.

    Everything that an environment answers comes through here, so here it is refused where nobody
    could learn from it: one infinite reward, and a run's returns, losses or weights are lost.
    """

    def __init__(self, num_envs: int, name: str) -> None:
        """name  of the environment, for errors: ``spec.name``"""
        self.dummy = np.zeros(num_envs, np.bool_)
        """[B] the next step is a dummy: the environment will ignore its action."""
        self._name = name
        self._steps = 0
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)

    def begin(self, obs: NDArray[Any]) -> NDArray[Any]:
        """The first observations ``[B, ...]``, unchanged. Raises AnswerError as ``enter`` does."""
        self._check_obs(obs)
        return obs

    def enter(
        self,
        obs: NDArray[Any],
        *,
        reward: NDArray[np.floating[Any]],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        game_end: NDArray[np.bool_],
        game_cut: NDArray[np.bool_],
    ) -> EnvStep:
        """Enter one step and make its EnvStep. Raises AnswerError where a number of it is not
        finite, or a reward beyond float32.

        obs                    [B, ...]  the next observation
        reward                 [B]  floats, raw
        terminated, truncated  [B]  bool  the episode ended; both false at a dummy
        game_end               [B]  bool  the game ended, at this step or hidden in a dummy
        game_cut               [B]  bool  it ended by the time limit
        """
        self._steps += 1
        self._check_reward(reward)
        reward = reward.astype(np.float32, copy=False)
        self._check_obs(obs)
        # An end is answered one step late. What was noted at the last step is this step's dummy:
        # the environment ignored its action, and what it returns now begins an episode, so the
        # same flags are reset[t + 1]. The ends of this step make the next one's dummy.
        dummy = self.dummy
        mask = ~dummy
        self.dummy = terminated | truncated
        self._returns += reward
        self._lengths += mask
        games = []
        if game_end.any():
            for column in np.flatnonzero(game_end).tolist():
                games.append(
                    Game(
                        column=column,
                        episode_return=float(self._returns[column]),
                        length=int(self._lengths[column]),
                        truncated=bool(game_cut[column]),
                    )
                )
            self._returns[game_end] = 0
            self._lengths[game_end] = 0
        return EnvStep(
            obs=obs,
            reset=dummy,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            mask=mask,
            games=games,
        )

    def _check_reward(self, reward: NDArray[np.floating[Any]]) -> None:
        # The sum of squares, one cheap call, tells that all is well. Only where it does not is each
        # looked at. NaN is not below anything.
        if np.vdot(reward, reward) <= _MAX_REWARD:
            return
        bounded = np.abs(reward) <= _MAX_REWARD
        if not bounded.all():
            self._refuse("reward", reward, ~bounded)

    def _check_obs(self, obs: NDArray[Any]) -> None:
        if obs.dtype.kind == "f" and not (finite := np.isfinite(obs)).all():
            self._refuse("an observation that holds", obs, ~finite)

    def _refuse(self, what: str, values: NDArray[Any], bad: NDArray[np.bool_]) -> NoReturn:
        column, *place = np.argwhere(bad)[0].tolist()
        value = values[(column, *place)]
        when = "began with"
        if self._steps:
            length = self._lengths[column]
            when = f"answered step {self._steps:,} ({length:,} steps into its game) with"
        at = f" at {place}" if place else ""
        raise AnswerError(
            f"{self._name}: environment {column} {when} {what} {value:g}{at}, expected finite "
            "numbers within float32: mend the environment, or wrap it so that it gives none"
        )


class ColumnDraws:
    """Random numbers for all columns at once, each column's from its own seed and the count of
    draws: SplitMix64 (Steele et al. 2014), which is all integer operations on whole vectors."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._keys = _mix(np.asarray(seeds, np.uint64))
        self._draws = 0

    def integers(self, n: int) -> NDArray[np.int64]:
        """One number in 0 .. n - 1 per column, int64 ``[B]``."""
        return (self._next() % np.uint64(n)).astype(np.int64)

    def chance(self, probability: float) -> NDArray[np.bool_]:
        """True with this probability, bool ``[B]``."""
        drawn: NDArray[np.bool_] = (self._next() >> np.uint64(11)) < probability * 2.0**53
        return drawn

    def _next(self) -> NDArray[np.uint64]:
        self._draws += 1
        return _mix(self._keys + np.uint64(self._draws * 0x9E3779B97F4A7C15 % 2**64))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
