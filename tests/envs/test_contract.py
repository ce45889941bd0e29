"""One contract for every adapter: dummy steps, resets, flags and the books on games."""

import ctypes.util
import json
import sys
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

from fwp_rl.config import ConfigError
from fwp_rl.envs import ENVS, ActionError, EnvConfig, EnvStep
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.envs.classic import ClassicConfig
from fwp_rl.envs.gym import GymnasiumConfig
from fwp_rl.envs.minigrid import MiniGridConfig
from fwp_rl.envs.procgen import ProcgenConfig
from fwp_rl.envs.toy import RecallConfig, RecallEnv, ScriptedConfig, ScriptedEpisode

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
SEEDS = [3, 14, 15]
NUM_STEPS = {"minigrid": 600, "procgen": 1100}
"""Until every column has seen an end; the rest end within 120 steps."""

HAS_QT = sys.platform != "linux" or ctypes.util.find_library("Qt5Gui") is not None


@dataclass
class Stream:
    """What an environment said, along time: obs and reset have T + 1 entries, the rest T."""

    obs: NDArray[Any]
    reset: NDArray[np.bool_]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    mask: NDArray[np.bool_]
    steps: list[EnvStep]

    @property
    def ended(self) -> NDArray[np.bool_]:
        return self.terminated | self.truncated


def random_actions(num_actions: int, num_steps: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, num_actions, num_steps)


def play(config: EnvConfig, seeds: list[int], num_steps: int) -> Stream:
    """Play the same random actions for every column, whatever the seeds are."""
    env = config.make(len(seeds), seeds)
    first = env.reset()
    actions = random_actions(env.spec.num_actions, num_steps)
    steps = [env.step(np.full(len(seeds), action)) for action in actions]
    env.close()
    return Stream(
        obs=np.stack([first] + [step.obs for step in steps]),
        reset=np.stack([np.ones(len(seeds), np.bool_)] + [step.reset for step in steps]),
        reward=np.stack([step.reward for step in steps]),
        terminated=np.stack([step.terminated for step in steps]),
        truncated=np.stack([step.truncated for step in steps]),
        mask=np.stack([step.mask for step in steps]),
        steps=steps,
    )


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
    return play(config, SEEDS, NUM_STEPS.get(name, 120))


def check_arrays_are_fresh(config: EnvConfig, num_steps: int = 20) -> None:
    """Fail where an adapter writes to an array that it has handed out: whoever kept it, as actors
    do over a step, would find the next step's numbers in it."""
    env = config.make(len(SEEDS), SEEDS)
    kept = [env.reset()]
    copies = [kept[0].copy()]
    for action in random_actions(env.spec.num_actions, num_steps):
        step = env.step(np.full(len(SEEDS), action))
        arrays = [getattr(step, field.name) for field in fields(step) if field.name != "games"]
        kept += arrays
        copies += [array.copy() for array in arrays]
    env.close()
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_every_registered_family_is_under_this_contract() -> None:
    assert set(ENVS.values()) <= {type(config) for config in CONFIGS.values()}


def test_shapes_and_types_are_those_of_the_spec(config: EnvConfig, stream: Stream) -> None:
    spec = config.spec()
    assert stream.obs.shape == (len(stream.mask) + 1, 3, *spec.observation_shape)
    assert stream.obs.dtype == spec.observation_dtype
    assert stream.reward.dtype == np.float32
    for flag in (stream.reset, stream.terminated, stream.truncated, stream.mask):
        assert flag.dtype == np.bool_
        assert flag.shape[1:] == (3,)


def test_exactly_one_dummy_after_each_end_and_the_reset_right_after_it(stream: Stream) -> None:
    assert stream.ended.any(axis=0).all(), "no episode ended: this test would show nothing"
    assert not (stream.terminated & stream.truncated).any()
    num_steps, num_envs = stream.mask.shape
    for column in range(num_envs):
        t, fresh = 0, True
        while t < num_steps:
            assert stream.mask[t, column]
            assert stream.reset[t, column] == fresh
            fresh = False
            if stream.ended[t, column] and t + 1 < num_steps:
                t += 1
                assert not stream.mask[t, column]
                assert stream.reward[t, column] == 0
                assert not stream.ended[t, column]
                assert not stream.reset[t, column], "the dummy is the last of the old episode"
                fresh = True
            t += 1


def test_games_agree_with_a_recomputation_from_the_stream(stream: Stream) -> None:
    num_envs = stream.mask.shape[1]
    total, length = [0.0] * num_envs, [0] * num_envs
    num_games = 0
    for t, step in enumerate(stream.steps):
        for column in range(num_envs):
            total[column] += float(stream.reward[t, column])
            length[column] += int(stream.mask[t, column])
        for game in step.games:
            assert game.episode_return == pytest.approx(total[game.column])
            assert game.length == length[game.column]
            assert stream.ended[t, game.column] or not stream.mask[t, game.column]
            total[game.column], length[game.column] = 0.0, 0
            num_games += 1
        for column in np.flatnonzero(stream.truncated[t]).tolist():
            assert [g.truncated for g in step.games if g.column == column] == [True]
    assert num_games > 0


def test_the_same_seeds_give_the_same_stream(config: EnvConfig, stream: Stream) -> None:
    again = play(config, SEEDS, 60)
    for name in ("obs", "reset", "reward", "terminated", "truncated", "mask"):
        expected = getattr(stream, name)[: len(getattr(again, name))]
        np.testing.assert_array_equal(getattr(again, name), expected, err_msg=name)
    assert [step.games for step in again.steps] == [step.games for step in stream.steps[:60]]


def test_a_column_depends_on_its_own_seed_alone(config: EnvConfig, stream: Stream) -> None:
    if isinstance(config, ScriptedConfig):
        pytest.skip("scripts know no chance")
    other = play(config, [SEEDS[1], 9], 40)
    np.testing.assert_array_equal(other.obs[:, 0], stream.obs[:41, 1])
    assert (other.obs[:, 1] != stream.obs[:41, 1]).any()


def test_arrays_are_the_callers(config: EnvConfig) -> None:
    check_arrays_are_fresh(config)


def test_an_array_that_is_handed_out_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    play, buffer = RecallEnv.step, np.zeros((3, 6), np.float32)

    def step(self: RecallEnv, action: NDArray[Any]) -> EnvStep:
        answer = play(self, action)
        buffer[:] = answer.obs
        answer.obs = buffer
        return answer

    monkeypatch.setattr(RecallEnv, "step", step)
    with pytest.raises(AssertionError, match="not equal"):
        check_arrays_are_fresh(RecallConfig())


def test_describe_is_json_and_names_the_task(config: EnvConfig) -> None:
    described = config.make(1, [0]).describe()
    assert json.loads(json.dumps(described))["task_id"]


def test_render_gives_a_screen_where_it_was_asked_for(name: str, config: EnvConfig) -> None:
    if name == "catch":
        with pytest.raises(ConfigError, match="Catch-v0 has no screen"):
            config.make(2, [0, 1], render=True)
        return
    env = config.make(2, [0, 1], render=True)
    env.reset()
    screen = env.render(1)
    assert screen.dtype == np.uint8
    assert screen.ndim == 3
    assert screen.shape[2] == 3
    with pytest.raises(IndexError, match="column: got 2, expected 0 to 1"):
        env.render(2)
    blind = config.make(1, [0])
    blind.reset()
    with pytest.raises(RuntimeError, match="render=True"):
        blind.render(0)


@pytest.mark.parametrize(
    ("num_envs", "seeds", "num_threads", "message"),
    [
        (0, [], None, "num_envs: got 0"),
        (-1, [], None, "num_envs: got -1"),
        (2.0, [0, 1], None, "num_envs: got 2.0"),
        ("2", [0, 1], None, "num_envs: got '2'"),
        (2, [0], None, "seeds: got 1, expected 2"),
        (1, [-1], None, "seeds: got -1"),
        (1, [2**31], None, "seeds: got 2147483648"),
        (1, [0.5], None, "seeds: got 0.5"),
        (1, [0], 0, "num_threads: got 0"),
    ],
)
def test_bad_arguments_are_refused(
    config: EnvConfig, num_envs: Any, seeds: Any, num_threads: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config.make(num_envs, seeds, num_threads=num_threads)


def test_bad_actions_are_refused_and_change_nothing(config: EnvConfig, stream: Stream) -> None:
    env = config.make(3, SEEDS)
    env.reset()
    for bad in (
        np.zeros(2, np.int64),
        np.zeros((3, 1), np.int64),
        np.zeros(3, np.float32),
        np.array([0, np.nan, 0]),
        np.array([0, 0, -1]),
        np.array([0, env.spec.num_actions, 0]),
    ):
        with pytest.raises(ActionError):
            env.step(bad)
    action = np.full(3, random_actions(env.spec.num_actions, 1))
    np.testing.assert_array_equal(env.step(action).obs, stream.obs[1])
