"""One contract for every adapter: dummy steps, resets, flags and the books on games."""

import ctypes.util
import sys
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest

from fwp_rl.config import ConfigError
from fwp_rl.envs import ENVS, EnvConfig
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.envs.classic import ClassicConfig
from fwp_rl.envs.gym import GymnasiumConfig
from fwp_rl.envs.minigrid import MiniGridConfig
from fwp_rl.envs.procgen import ProcgenConfig
from fwp_rl.envs.toy import RecallConfig, ScriptedConfig, ScriptedEpisode
from fwp_rl.testing import ENV_CHECKS, Stream, record_stream

SCRIPT = (
    (
        ScriptedEpisode(rewards=(1.0, -2.0, 0.5)),
        ScriptedEpisode(rewards=(3.0,), end="life_lost"),
        ScriptedEpisode(rewards=(0.0, 4.0), end="truncated"),
    ),
    (ScriptedEpisode(rewards=(1.0,)),),
    (ScriptedEpisode(rewards=(2.0, 2.0), end="truncated"),),
)


class Counting(gymnasium.Env[dict[str, Any], np.int64]):
    """Draws a start and counts up to 12: terminated there, truncated by its wrapper at 10 steps."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 5}
    action_space = gymnasium.spaces.Discrete(3, start=1)
    observation_space = gymnasium.spaces.Dict(
        {
            "count": gymnasium.spaces.Discrete(30),
            "noise": gymnasium.spaces.Box(0, 1, (2,), np.float32),
        }
    )

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.count = int(self.np_random.integers(0, 5))
        return self.observe(), {}

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        assert 1 <= action <= 3, "the actions of this environment start at 1"
        self.count += 1
        return self.observe(), float(action), self.count >= 12, False, {}

    def observe(self) -> dict[str, Any]:
        return {"count": self.count, "noise": self.np_random.random(2, np.float32)}

    def render(self) -> Any:
        return np.full((8, 8, 3), self.count, np.uint8)


gymnasium.register("Counting-v0", entry_point=Counting, max_episode_steps=10)

CONFIGS: dict[str, EnvConfig] = {
    "atari-lives": AtariConfig(game="Breakout", max_frames=400),
    "atari-games": AtariConfig(game="Pong", max_frames=120, episodic_life=False, frame_stack=1),
    "ale-lives": AtariConfig(game="Breakout", backend="ale", max_frames=400),
    "ale-games": AtariConfig(
        game="Pong", backend="ale", max_frames=120, episodic_life=False, frame_stack=1
    ),
    "recall": RecallConfig(min_delay=0, max_delay=4, time_limit=5),
    "recall-distractors": RecallConfig(min_delay=3, max_delay=3, distractors=True),
    "recall-keys": RecallConfig(num_keys=2, overwrites=2, delay=3, distractors=True),
    "scripted": ScriptedConfig(columns=SCRIPT),
    "minigrid": MiniGridConfig(task="MemoryS7"),
    "cartpole": ClassicConfig(task="CartPole-v1"),
    "catch": ClassicConfig(task="Catch-v0"),
    "gymnasium": GymnasiumConfig(id="Counting-v0"),
    "procgen": ProcgenConfig(task="CoinrunEasy"),
}
NUM_STEPS = {"minigrid": 600, "procgen": 1100}
"""Until every column has seen an end; the rest end within 120 steps."""

HAS_QT = sys.platform != "linux" or ctypes.util.find_library("Qt5Gui") is not None


@pytest.fixture(scope="module", params=CONFIGS)
def name(request: pytest.FixtureRequest) -> Any:
    if request.param == "procgen" and not HAS_QT:
        pytest.skip("Procgen needs the system's Qt 5 libraries")
    return request.param


@pytest.fixture(scope="module")
def config(name: str) -> EnvConfig:
    return CONFIGS[name]


@pytest.fixture(scope="module")
def stream(name: str, config: EnvConfig) -> Stream:
    return record_stream(config, num_steps=NUM_STEPS.get(name, 120))


def test_every_registered_family_is_under_this_contract() -> None:
    assert set(ENVS.values()) <= {type(config) for config in CONFIGS.values()}


@pytest.mark.parametrize("check", ENV_CHECKS)
def test_every_family_keeps_the_contract(config: EnvConfig, stream: Stream, check: str) -> None:
    if check == "other_seeds_are_other_streams" and isinstance(config, ScriptedConfig):
        pytest.skip("scripts know no chance")
    ENV_CHECKS[check](config, stream)


def test_what_has_no_screen_says_so() -> None:
    with pytest.raises(ConfigError, match="Catch-v0 has no screen"):
        CONFIGS["catch"].make(2, [0, 1], render=True)
