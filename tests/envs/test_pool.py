"""Episodes that end by themselves on the step of their limit, which envpool calls truncated."""

from collections.abc import Callable
from functools import partial
from typing import Any

import envpool
import numpy as np
import pytest
from numpy.typing import NDArray

from fwp_rl.envs import EnvConfig, pool
from fwp_rl.envs.classic import ClassicConfig
from fwp_rl.envs.minigrid import MiniGridConfig

COLUMNS = 48
FREE = 10_000
"""Steps: a limit that nothing here reaches."""

Play = Callable[[NDArray[Any], np.random.Generator], NDArray[np.int64]]


def draw(*actions: int) -> Play:
    return lambda obs, rng: rng.choice(actions, len(obs))


def push_along(velocity: int, left: int, right: int) -> Play:
    """Push the way in which it moves already, which gathers energy."""
    return lambda obs, rng: np.where(obs[:, velocity] >= 0, right, left)


CASES: dict[str, tuple[EnvConfig, Play, int]] = {
    "Acrobot": (ClassicConfig(task="Acrobot-v1"), push_along(5, 0, 2), 300),
    "CartPole": (ClassicConfig(task="CartPole-v1"), draw(0, 1), 40),
    "Catch": (ClassicConfig(task="Catch-v0"), draw(0, 1, 2), 12),
    "MountainCar": (ClassicConfig(task="MountainCar-v0"), push_along(1, 0, 2), 140),
    "MemoryS7": (MiniGridConfig(task="MemoryS7"), draw(0, 1, 2, 2, 2), 40),
    "MemoryS13Random": (MiniGridConfig(task="MemoryS13Random"), draw(0, 1, 2, 2, 2), 150),
    "RedBlueDoors": (MiniGridConfig(task="RedBlueDoors-6x6"), draw(0, 1, 2, 2, 5, 5), 200),
    "DoorKey": (MiniGridConfig(task="DoorKey-5x5"), draw(0, 1, 2, 2, 3, 5), 300),
}
"""Config, what is played, and steps until some columns have ended."""


@pytest.mark.parametrize("name", CASES)
def test_an_end_on_the_step_of_the_limit_is_terminated(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same seeds and actions, without a limit and with one: what ends without it ends the same."""
    config, policy, num_steps = CASES[name]
    make = envpool.make

    def ends(limit: int, steps: int) -> tuple[NDArray[np.bool_], ...]:
        """First ends of every column ``[T, B]``: terminated, truncated."""
        monkeypatch.setattr(envpool, "make", partial(make, max_episode_steps=limit))
        env = config.make(COLUMNS, range(COLUMNS))
        rng, obs = np.random.default_rng(0), env.reset()
        rows, over = [], np.zeros(COLUMNS, np.bool_)
        for _ in range(steps):
            step = env.step(policy(obs, rng))
            obs = step.obs
            rows.append([flag & ~over for flag in (step.terminated, step.truncated)])
            over |= step.terminated | step.truncated
        env.close()
        terminated, truncated = np.array(rows).swapaxes(0, 1)
        return terminated, truncated

    terminated, truncated = ends(FREE, num_steps)
    assert not truncated.any()
    limit = int(terminated.sum(axis=1).argmax()) + 1
    cut_terminated, cut_truncated = ends(limit, limit)
    np.testing.assert_array_equal(cut_terminated, terminated[:limit])
    assert cut_terminated[-1].any()
    still_running = ~terminated[:limit].any(axis=0)
    np.testing.assert_array_equal(cut_truncated[-1], still_running)


def test_a_pool_has_the_threads_of_the_cores_that_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "usable_cores", lambda: 3)
    threads = [ClassicConfig().make(n, range(n)).describe()["num_threads"] for n in (2, 5)]
    assert threads == [2, 3]
