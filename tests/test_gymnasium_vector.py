"""Gymnasium's view of the environments."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils import env_checker
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import fwp_rl
from fwp_rl.agents import load_preset
from fwp_rl.config import ConfigError
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.envs import ActionError, EnvConfig
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.envs.classic import ClassicConfig
from fwp_rl.envs.gym import GymnasiumConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.models.encoders import MLPConfig
from fwp_rl.models.policy import Policy, PolicyConfig
from fwp_rl.runs.files import CheckpointError
from fwp_rl.runs.policy import save_policy

CONFIGS: dict[str, EnvConfig] = {
    "recall": RecallConfig(),
    "catch": ClassicConfig(task="Catch-v0"),
    "atari": AtariConfig(game="Pong"),
}


class Column(gymnasium.Env[Any, Any]):
    """One environment of them, for the checker of single ones."""

    def __init__(self, config: EnvConfig) -> None:
        self.envs = fwp_rl.make(config)
        self.observation_space = self.envs.single_observation_space
        self.action_space = self.envs.single_action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        obs, info = self.envs.reset(seed=seed, options=options)
        return obs[0], {name: value[0] for name, value in info.items()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.envs.step(np.array([action]))
        rest = {name: value[0] for name, value in info.items()}
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), rest

    def close(self) -> None:
        self.envs.close()


@pytest.mark.parametrize("name", ["recall", "catch"])
@pytest.mark.filterwarnings("ignore:.*does not have a spec|.*infinity|.*not having a spec")
def test_gymnasiums_checker_passes(name: str) -> None:
    env_checker.check_env(Column(CONFIGS[name]))
    envs: Any = fwp_rl.make(CONFIGS[name])  # what of it does not ask for one environment
    env_checker.check_reset_return_type(envs)
    env_checker.check_reset_seed_determinism(envs)
    env_checker.check_reset_options(envs)
    env_checker.check_returned_data_not_reused(envs)
    envs.close()


@pytest.mark.parametrize("name", CONFIGS)
def test_spaces_hold_what_is_answered(name: str) -> None:
    envs = fwp_rl.make(CONFIGS[name], 3)
    obs, info = envs.reset(seed=1)
    assert envs.observation_space.shape == (3, *CONFIGS[name].spec().observation_shape)
    assert obs in envs.observation_space
    envs.action_space.seed(0)
    for _ in range(30):
        obs, reward, terminated, truncated, info = envs.step(envs.action_space.sample())
        assert obs in envs.observation_space
        for flag in (terminated, truncated, info["reset"], info["mask"]):
            assert (flag.shape, flag.dtype) == ((3,), np.bool_)
        assert (reward.shape, reward.dtype) == ((3,), np.float32)
    envs.close()


def test_it_plays_as_gymnasiums_own_vector_environments() -> None:
    seeds = [3, 1, 4]
    ours = fwp_rl.make(GymnasiumConfig(id="CartPole-v1", max_episode_steps=30), 3)
    theirs = gymnasium.make_vec(
        "CartPole-v1",
        num_envs=3,
        vectorization_mode="sync",
        max_episode_steps=30,
        vector_kwargs={"autoreset_mode": AutoresetMode.NEXT_STEP},
    )
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    (a, _), (b, _) = ours.reset(seed=seeds), theirs.reset(seed=seeds)
    np.testing.assert_array_equal(a, b)
    assert ours.single_action_space == theirs.single_action_space
    ends, ended = 0, np.zeros(3, np.bool_)
    for action in np.random.default_rng(0).integers(0, 2, (120, 3)):
        step, expected = ours.step(action), theirs.step(action)
        for found, wanted in zip(step[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(step[4]["reset"], ended)
        ended = step[2] | step[3]
        ends += int(ended.sum())
    assert ends > 6


def test_gymnasiums_wrappers_count_the_same_games() -> None:
    envs = RecordEpisodeStatistics(fwp_rl.make(RecallConfig(time_limit=5), 4))
    envs.reset(seed=5)
    games = 0
    for action in np.random.default_rng(0).integers(0, 4, (60, 4)):
        *_, info = envs.step(action)
        ended = info.get("_game_return", np.zeros(4, np.bool_))
        np.testing.assert_array_equal(info.get("_episode", np.zeros(4, np.bool_)), ended)
        if ended.any():
            theirs = info["episode"]
            np.testing.assert_array_equal(theirs["r"][ended], info["game_return"][ended])
            games += int(ended.sum())
    assert games > 20


def test_seeds() -> None:
    envs = fwp_rl.make(RecallConfig(num_cues=64), 8)

    def first(**how: Any) -> list[float]:
        return envs.reset(**how)[0].flatten().tolist()

    once = first(seed=1)
    unseeded = first()
    assert first(seed=1) == once
    assert first() == unseeded != once
    assert first(seed=2) != once
    assert first(seed=list(range(8))) == first(seed=list(range(8)))


def test_an_environment_is_found_by_name_path_and_run(tmp_path: Path) -> None:
    assert fwp_rl.make("minigrid_memory").config == load_preset("minigrid_memory").env
    assert fwp_rl.make("quickstart").config == load_preset("quickstart").env
    (tmp_path / "mine.yaml").write_text("agent: ppo\nenv: {name: recall, num_cues: 3}\n")
    assert fwp_rl.make(str(tmp_path / "mine.yaml")).config == RecallConfig(num_cues=3)
    (tmp_path / "mine.yaml").write_text("agent: ppo\n")
    assert fwp_rl.make(tmp_path / "mine.yaml").config == AtariConfig()
    env = RecallConfig(num_cues=5)
    torch.manual_seed(0)
    config = PolicyConfig(encoder=MLPConfig(hidden_sizes=(4,)), core=FeedforwardConfig())
    save_policy(tmp_path / "policy", Policy(config, env.spec()), env=env, metadata={})
    (tmp_path / "policy" / "policy.safetensors").write_bytes(b"")  # weights are not asked for
    for path in (tmp_path, tmp_path / "policy"):
        assert fwp_rl.make(path).config == env


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fwp_rl.make("quikstart"), ConfigError, "Did you mean 'quickstart'"),
        (lambda: fwp_rl.make("runs/none"), CheckpointError, "runs/none: there is no such folder"),
        (lambda: fwp_rl.make("none.yaml"), ConfigError, "none.yaml: cannot be read"),
        (lambda: fwp_rl.make(RecallConfig(), 0), ConfigError, "num_envs: got 0"),
        (lambda: fwp_rl.make(RecallConfig(), "2"), ConfigError, "num_envs: got '2'"),
        (lambda: fwp_rl.make(RecallConfig(), num_threads=0), ConfigError, "num_threads: got 0"),
        (lambda: fwp_rl.make(RecallConfig(), render_mode="human"), ConfigError, "got 'human'"),
        (lambda: fwp_rl.make(RecallConfig(), render_mode="rgb_array"), ConfigError, "no screen"),
        (lambda: fwp_rl.make(RecallConfig()).step(np.zeros(1, int)), RuntimeError, "step() before"),
        (lambda: fwp_rl.make(RecallConfig()).reset(seed=[1, 2]), ConfigError, "seeds: got 2"),
        (
            lambda: fwp_rl.make(RecallConfig()).reset(options={"reset_mask": 1}),
            ValueError,
            "options: got ['reset_mask']",
        ),
    ],
)
def test_mistakes(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_end_and_bad_actions() -> None:
    envs = fwp_rl.make(RecallConfig(), 2)
    envs.reset()
    with pytest.raises(ActionError, match="out of range"):
        envs.step(np.array([0, 9]))
    envs.close()
    envs.close()
    for call in (lambda: envs.step(np.zeros(2, int)), envs.reset):
        with pytest.raises(RuntimeError, match="was closed"):
            call()


def test_screens() -> None:
    envs = fwp_rl.make(ClassicConfig(task="CartPole-v1"), 2, render_mode="rgb_array")
    assert envs.metadata["render_modes"] == ["rgb_array"]
    envs.reset(seed=0)
    screens = envs.render()
    assert screens is not None
    assert [screen.dtype for screen in screens] == [np.uint8] * 2
    assert fwp_rl.make(RecallConfig()).render() is None
    envs.close()
