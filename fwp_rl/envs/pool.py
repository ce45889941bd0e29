"""envpool, with what it would crash, hang or be silent about refused in front of it.

``Pool`` is the bare pool, ``PoolEnv`` an environment on top of it for every family whose two flags
``terminated`` and ``truncated`` say all (Atari's do not: see ``atari/envpool.py``).

Measured on envpool 1.2.5, and held by the tests of the adapters:

- The step after an end ignores its action and returns the first observation of what follows: the
  dummy step of ``fwp_rl/types.py``, with reward 0 and both flags down.
- An episode that ends on the very step of its limit is called truncated, whatever ended it. Who
  knows how a task ends tells ``PoolEnv``.
- A synchronous pool (``batch_size == num_envs``) returns its rows in column order.
- Column i seeded with a number behaves alike in every pool, for any number of threads.
- Actions out of range are accepted, a NaN or a vector of the wrong length ends the process.
- A pool used in a forked child hangs; ``close()`` does not stop it, dropping it does.
"""

import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fwp_rl.envs.base import EnvStep, check_action
from fwp_rl.envs.bookkeeping import Books, Lifetime, check_columns, check_render
from fwp_rl.machine import usable_cores
from fwp_rl.types import EnvSpec

__all__ = ["EndedByItself", "Pool", "PoolEnv", "PoolStep"]

PoolStep = tuple[Any, NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]
"""Observations, reward, terminated, truncated, info: envpool's answer to a step."""

EndedByItself = Callable[[Any, NDArray[np.float32], dict[str, Any]], NDArray[np.bool_]]
"""From envpool's observations, reward and info after a step, ``[B]``: the task has come to its end,
time limit or not."""


class Pool:
    """B columns of one envpool task, stepped in lockstep in the process that built them."""

    def __init__(
        self,
        task_id: str,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_actions: int,
        num_threads: int | None = None,
        render: bool = False,
        **arguments: Any,
    ) -> None:
        """``arguments`` are envpool's own, already checked. Raises ConfigError on bad counts or
        seeds, ImportError where the family's system libraries are missing."""
        seeds = check_columns(num_envs, seeds, num_threads)
        import envpool  # takes seconds, and a config needs none of it

        self.num_envs = int(num_envs)
        self.task_id = task_id
        self._num_actions = num_actions
        self._render = render
        self._lifetime = Lifetime()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*precision lowered by casting")  # bounds of spaces
            self._pool: Any = envpool.make(
                task_id,
                env_type="gymnasium",
                num_envs=self.num_envs,
                seed=seeds,
                # more threads than columns do nothing, and too many end the process
                num_threads=min(int(num_threads or usable_cores()), self.num_envs),
                render_mode="rgb_array" if render else None,
                **arguments,
            )
            _ = self._pool.observation_space  # is made, and warns, at its first use

    def reset(self) -> tuple[Any, dict[str, Any]]:
        """Start every column: the first observations, and envpool's info. Once only."""
        self._lifetime.start()
        first: tuple[Any, dict[str, Any]] = self._pool.reset()
        return first

    def step(self, action: NDArray[Any]) -> PoolStep:
        """Play one action per column. Raises ActionError for anything but B action numbers."""
        self._lifetime.check_started()
        action = check_action(action, self.num_envs, self._num_actions)
        answer: PoolStep = self._pool.step(action)
        return answer

    def render(self, column: int) -> NDArray[np.uint8]:
        """The screen of one column, ``[height, width, 3]``."""
        self._lifetime.check_started("render")
        check_render(self._render, column, self.num_envs)
        screen: NDArray[np.uint8] = self._pool.render(env_ids=[int(column)])[0]
        return screen

    @property
    def arguments(self) -> dict[str, Any]:
        """envpool's whole configuration; its ``base_path`` is a path of this machine."""
        self._lifetime.check_open()
        return dict(self._pool.config)

    def describe(self) -> dict[str, Any]:
        """The task, envpool's configuration without paths, its version and that of its assets."""
        arguments = self.arguments
        del arguments["base_path"]
        return {
            "backend": "envpool",
            "task_id": self.task_id,
            **arguments,
            "envpool": version("envpool"),
            "envpool_assets": version("envpool-assets"),
        }

    def close(self) -> None:
        """Stop the pool's threads and drop it; envpool's own close() does neither."""
        self._lifetime.close()
        self._pool = None


class PoolEnv:
    """B columns of an envpool task whose two flags say how an episode ends; a game is an episode.

    observe          turns envpool's observations into ``[B, *spec.observation_shape]``
    ended_by_itself  tells what envpool's flags do not: an end on the very step of the limit.
                     Without it, all ends on that step are truncations.
    """

    def __init__(
        self,
        spec: EnvSpec,
        pool: Pool,
        observe: Callable[[Any], NDArray[Any]],
        *,
        ended_by_itself: EndedByItself | None = None,
    ) -> None:
        self.spec = spec
        self.num_envs = pool.num_envs
        self._pool = pool
        self._observe = observe
        self._ended_by_itself = ended_by_itself
        self._books = Books(self.num_envs, spec.name)

    def reset(self) -> NDArray[Any]:
        """Start every column: the first observations. Once only."""
        return self._books.begin(self._observe(self._pool.reset()[0]))

    def step(self, action: NDArray[Any]) -> EnvStep:
        """Play one action per column. Raises ActionError for anything but B action numbers."""
        obs, reward, terminated, truncated, info = self._pool.step(action)
        # The task's own end wins over the limit, or a finished episode would be bootstrapped; only
        # then are the flags made exclusive.
        if self._ended_by_itself is not None and truncated.any():
            terminated = terminated | (truncated & self._ended_by_itself(obs, reward, info))
        truncated = truncated & ~terminated
        return self._books.enter(
            self._observe(obs),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            game_end=terminated | truncated,
            game_cut=truncated,
        )

    def render(self, column: int) -> NDArray[np.uint8]:
        """The screen of one column, ``[height, width, 3]``."""
        return self._pool.render(column)

    def describe(self) -> dict[str, Any]:
        """The task, envpool's whole configuration and its version."""
        return self._pool.describe()

    def close(self) -> None:
        """Stop the pool's threads."""
        self._pool.close()
