"""MiniGrid's observation and names; what all adapters share is in test_contract.py."""

import envpool
import numpy as np
import pytest

from fwp_rl.config import ConfigError
from fwp_rl.envs import Game
from fwp_rl.envs.minigrid import TASKS, MiniGridConfig

FORWARD = 2


def test_the_tasks_are_those_of_envpool_whose_mission_never_changes() -> None:
    families = ("Memory", "RedBlueDoors", "ObstructedMaze", "DoorKey")
    known = {
        task.removeprefix("MiniGrid-")
        for task in envpool.list_all_envs()
        if task.startswith(tuple(f"MiniGrid-{family}" for family in families))
    }
    assert set(TASKS) == known


@pytest.mark.parametrize(
    ("given", "task"),
    [
        ("MemoryS9", "MemoryS9-v0"),
        ("MiniGrid-MemoryS13Random-v0", "MemoryS13Random-v0"),
        ("doorkey-8x8", "DoorKey-8x8-v0"),
        ("ObstructedMaze-Full", "ObstructedMaze-Full-v1"),
        ("ObstructedMaze-Full-v0", "ObstructedMaze-Full-v0"),
    ],
)
def test_names(given: str, task: str) -> None:
    assert MiniGridConfig(task=given).task == task


def test_a_typo_is_answered_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"task: got 'MemoryS8', .* Did you mean 'MemoryS"):
        MiniGridConfig(task="MemoryS8")


@pytest.mark.parametrize(
    "task", ["MemoryS9", "DoorKey-5x5", "ObstructedMaze-2Dlhb", "RedBlueDoors-6x6"]
)
def test_the_observation_is_the_picture_one_hot(task: str) -> None:
    """Decoded cell by cell, it is what the bare pool says."""
    config = MiniGridConfig(task=task)
    env = config.make(3, [4, 5, 6])
    pool = envpool.make(f"MiniGrid-{config.task}", env_type="gymnasium", num_envs=3, seed=[4, 5, 6])
    obs, raw = env.reset(), pool.reset()[0]
    rng = np.random.default_rng(0)
    for _ in range(150):
        cells = obs[:, :-4].reshape(3, 7, 7, 20)
        for part, channel in ((slice(0, 11), 0), (slice(11, 17), 1), (slice(17, 20), 2)):
            assert (cells[..., part].sum(-1) == 1).all()
            np.testing.assert_array_equal(cells[..., part].argmax(-1), raw["image"][..., channel])
        np.testing.assert_array_equal(obs[:, -4:].argmax(1), raw["direction"])
        assert (obs.sum(1) == 7 * 7 * 3 + 1).all()
        action = rng.integers(0, 7, 3)
        obs, raw = env.step(action).obs, pool.step(action.astype(np.int32))[0]


def test_an_episode_is_cut_at_the_limit_and_that_is_no_success() -> None:
    config = MiniGridConfig(task="MemoryS7")
    env = config.make(1, [0])
    env.reset()
    declare = np.array([6])
    steps = [env.step(declare) for _ in range(245)]
    assert steps[-1].truncated[0]
    (game,) = steps[-1].games
    assert (game.length, game.truncated, config.success(game)) == (245, True, False)
    assert config.success(Game(column=0, episode_return=0.1, length=3, truncated=False))
