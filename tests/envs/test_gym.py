"""Gymnasium environments of many spaces; what all adapters share is in test_contract.py."""

import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import yaml
from gymnasium import spaces

from fwp_rl.config import ConfigError
from fwp_rl.envs.gym import GymnasiumConfig
from fwp_rl.runs.presets import config_to_dict, env_config_from_dict


class Sampling(gymnasium.Env[Any, Any]):
    """Answers with samples of its observation space; never ends."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any] | None = None,
        render_mode: str | None = None,
        picture: Any = None,
        fail: str = "",
    ) -> None:
        if fail:
            raise FileNotFoundError(fail)
        self.render_mode = render_mode
        self.picture = picture
        self.observation_space = observation_space
        self.action_space = spaces.Discrete(2) if action_space is None else action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}

    def render(self) -> Any:
        return self.picture


OBSERVATIONS: dict[str, tuple[spaces.Space[Any], tuple[int, ...]]] = {
    "Colour": (spaces.Box(0, 255, (8, 10, 3), np.uint8), (3, 8, 10)),
    "Stack": (spaces.Box(0, 255, (4, 8, 10), np.uint8), (4, 8, 10)),
    "Square": (spaces.Box(0, 255, (8, 8, 20), np.uint8), (20, 8, 8)),
    "Grey": (spaces.Box(0, 255, (8, 10), np.uint8), (1, 8, 10)),
    "Unit": (spaces.Box(0, 1, (8, 10, 3), np.float32), (3, 8, 10)),
    "UnitStack": (spaces.Box(-1, 1, (4, 8, 10), np.float64), (4, 8, 10)),
    "FloatBytes": (spaces.Box(0, 255, (8, 10, 3), np.float32), (3, 8, 10)),
    "IntBytes": (spaces.Box(0, 255, (3, 8, 10), np.int64), (3, 8, 10)),
    "Grid": (spaces.Box(-1, 1, (4, 5), np.float64), (4, 5)),
    "Ints": (spaces.Box(0, 9, (3,), np.int64), (3,)),
    "Discrete": (spaces.Discrete(4, start=2), (4,)),
    "Tuple": (spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(3))), (5,)),
    "Dict": (spaces.Dict(b=spaces.MultiDiscrete([2, 3]), a=spaces.Box(0, 1, (2, 2))), (9,)),
    "Text": (spaces.Text(4), (4,)),
    "Either": (spaces.OneOf((spaces.Discrete(2), spaces.Box(0, 1, (3,)))), (4,)),
    "Bytes": (spaces.Box(0, 255, (6,), np.uint8), (6,)),
    "Mixed": (
        spaces.Dict(
            a=spaces.Box(0, 255, (2, 2), np.uint8),
            b=spaces.Tuple((spaces.Box(0, 10, (3,), np.uint8), spaces.Box(0, 99, (1,)))),
        ),
        (8,),
    ),
}
BOUNDS = {
    "Bytes": [255] * 6,
    "Mixed": [255] * 4 + [10] * 3 + [1],
    "FloatBytes": [255],
    "IntBytes": [255],
}
"""What the entries of an observation are divided by, where that is not 1."""


def register(name: str, **kwargs: Any) -> str:
    """The id of an environment that samples, and is cut after 100 steps."""
    gymnasium.register(f"Sampling{name}-v0", Sampling, max_episode_steps=100, kwargs=kwargs)
    return f"Sampling{name}-v0"


for name, (space, _) in OBSERVATIONS.items():
    register(name, observation_space=space)
register("Steer", observation_space=spaces.Discrete(2), action_space=spaces.Box(-1, 1, (2,)))
register("List", observation_space=spaces.Sequence(spaces.Discrete(2), stack=True))


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observations_of_every_space_become_images_or_vectors(name: str) -> None:
    space, shape = OBSERVATIONS[name]
    env = GymnasiumConfig(id=f"Sampling{name}-v0").make(2, [5, 6])
    assert env.spec.observation_shape == shape
    obs = env.reset()
    raw = name in ("Colour", "Stack", "Square", "Grey")
    assert obs.dtype == env.spec.observation_dtype == ("uint8" if raw else "float32")
    for column, seed in enumerate((5, 6)):
        space.seed(seed)
        truth: Any = space.sample()
        if name in ("Colour", "Square", "Unit", "FloatBytes"):
            truth = truth.transpose(2, 0, 1)
        elif not isinstance(space, spaces.Box):
            truth = spaces.flatten(space, truth)
        truth = np.ravel(truth) / np.array(BOUNDS.get(name, 1))
        np.testing.assert_allclose(obs[column].reshape(-1), np.ravel(truth), rtol=1e-6)
    assert env.step(np.zeros(2, np.int64)).obs.shape == (2, *shape)


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("CartPol-v1", "id: got 'CartPol-v1', .* Did you mean: `CartPole`"),
        ("CartPole-v9", "provides versioned environments"),
        ("os:Env-v0", "a module is not imported because a config names it"),
        ("ALE/MsPacman-v5", "env:atari --env.game MsPacman"),
    ],
)
def test_unknown_ids_are_refused_at_once(id: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GymnasiumConfig(id=id)


def test_spaces_that_no_policy_here_can_use_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"action space Box.*expected Discrete"):
        GymnasiumConfig(id="SamplingSteer-v0").spec()
    with pytest.raises(ConfigError, match=r"Sequence.*cannot be flattened"):
        GymnasiumConfig(id="SamplingList-v0").spec()


def test_an_environment_that_cannot_be_made_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)  # as where pygame is not installed
    env = GymnasiumConfig(id="FrozenLake-v1").make(1, [0], render=True)
    env.reset()
    with pytest.raises(ImportError, match=r"FrozenLake-v1 cannot be drawn: .*pip install"):
        env.render(0)


def test_an_id_without_a_limit_needs_one() -> None:
    """Its episodes might never end, and an evaluation with them."""
    with pytest.raises(ConfigError, match=r"max_episode_steps: CliffWalking-v1 .* without a limit"):
        GymnasiumConfig(id="CliffWalking-v1")
    env = GymnasiumConfig(id="CliffWalking-v1", max_episode_steps=7).make(1, [0])
    env.reset()
    up = [env.step(np.zeros(1, np.int64)) for _ in range(7)]
    assert [bool(step.truncated[0]) for step in up] == [False] * 6 + [True]
    assert env.describe()["max_episode_steps"] == 7
    cut = GymnasiumConfig(id="CartPole-v1", max_episode_steps=3).make(1, [0])
    cut.reset()
    assert [bool(cut.step(np.zeros(1, np.int64)).truncated[0]) for _ in range(3)][-1]


def test_arguments_reach_the_environment() -> None:
    config = GymnasiumConfig(id="FrozenLake-v1", kwargs={"map_name": "8x8", "is_slippery": False})
    assert config.spec().observation_shape == (64,)
    env = config.make(1, [0])
    assert env.reset().argmax() == 0
    right = 2
    assert env.step(np.array([right])).obs.argmax() == 1, "nobody slips"
    assert env.describe()["arguments"]["map_name"] == "'8x8'"
    stored = config_to_dict(config)
    assert env_config_from_dict(yaml.safe_load(yaml.safe_dump(stored))) == config


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ([1], "kwargs: got \\[1\\], expected a mapping"),
        ({1: 1}, "kwargs: got the name 1, expected a string"),
        ({"a": float("inf")}, "kwargs: got a = inf, expected a finite number"),
        ({"a": [1]}, "kwargs: got a = \\[1\\], expected True, False, a number or a string"),
        ({"max_episode_steps": 3}, "kwargs: max_episode_steps has a setting of its own"),
    ],
)
def test_arguments_that_are_none_are_refused(kwargs: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GymnasiumConfig(id="CartPole-v1", kwargs=kwargs)


def test_what_goes_wrong_in_an_environments_own_code_is_said_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"CartPole-v1 cannot be made with .*TypeError.*gravity"):
        GymnasiumConfig(id="CartPole-v1", kwargs={"gravity": 3.7}).spec()
    id = register("Fails", observation_space=spaces.Discrete(2), fail="no such level")
    for attempt in (GymnasiumConfig(id=id).spec, lambda: GymnasiumConfig(id=id).make(1, [0])):
        with pytest.raises(ConfigError, match=f"id: {id} cannot be made: .*no such level"):
            attempt()


@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_an_id_that_is_registered_anew_has_its_new_spec() -> None:
    for n in (3, 5):
        id = register("Again", observation_space=spaces.Discrete(n))
        assert GymnasiumConfig(id=id).spec().observation_shape == (n,)


COLOUR = np.arange(24).reshape(2, 4, 3)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (COLOUR.astype(np.uint8), COLOUR),
        (COLOUR, COLOUR),
        (np.dstack([COLOUR, np.full((2, 4), 255)]), COLOUR),
        (COLOUR[..., 0], COLOUR[..., [0, 0, 0]]),
        (COLOUR / 255, None),
        (COLOUR - 1, None),
        (COLOUR[None], None),
        (np.zeros((0, 4, 3), np.uint8), None),
        ("a picture", None),
        (None, None),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pictures_are_uint8_in_colour_or_refused(picture: Any, expected: Any) -> None:
    kwargs = {"observation_space": spaces.Discrete(2), "picture": picture}
    gymnasium.registry.pop("SamplingPicture-v0", None)
    env = GymnasiumConfig(id=register("Picture", **kwargs)).make(1, [0], render=True)
    env.reset()
    if expected is None:
        with pytest.raises(
            RuntimeError, match=r"SamplingPicture-v0 draws .*expected whole numbers"
        ):
            env.render(0)
    else:
        screen = env.render(0)
        assert screen.dtype == np.uint8
        np.testing.assert_array_equal(screen, expected)


@pytest.mark.slow
def test_a_process_for_each_column_gives_the_same_stream() -> None:
    def play(processes: bool) -> list[Any]:
        env = GymnasiumConfig(id="CartPole-v1", processes=processes).make(2, [1, 2])
        rng = np.random.default_rng(0)
        obs = [env.reset()]
        obs += [env.step(rng.integers(0, 2, 2)).obs for _ in range(60)]
        env.close()
        return obs

    np.testing.assert_array_equal(play(False), play(True))


UNGUARDED = """
from fwp_rl.envs.gym import GymnasiumConfig
GymnasiumConfig(id="CartPole-v1", processes=True).make(1, [0])
"""


@pytest.mark.slow
def test_a_script_that_runs_anew_in_each_process_is_told_how_not_to(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(UNGUARDED)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert "processes: a process of CartPole-v1 died as it started" in last
    assert '`if __name__ == "__main__":`' in last
