"""Gymnasium environments of many spaces; what all adapters share is in test_contract.py."""

import sys
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from fwp_rl.config import ConfigError
from fwp_rl.envs.gym import GymnasiumConfig


class Sampling(gymnasium.Env[Any, Any]):
    """Answers with samples of its observation space; never ends."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any] | None = None
    ) -> None:
        self.observation_space = observation_space
        self.action_space = spaces.Discrete(2) if action_space is None else action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


OBSERVATIONS: dict[str, tuple[spaces.Space[Any], tuple[int, ...]]] = {
    "Colour": (spaces.Box(0, 255, (8, 10, 3), np.uint8), (3, 8, 10)),
    "Grey": (spaces.Box(0, 255, (8, 10), np.uint8), (1, 8, 10)),
    "Grid": (spaces.Box(-1, 1, (4, 5), np.float64), (4, 5)),
    "Ints": (spaces.Box(0, 9, (3,), np.int64), (3,)),
    "Discrete": (spaces.Discrete(4, start=2), (4,)),
    "Tuple": (spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(3))), (5,)),
    "Dict": (spaces.Dict(b=spaces.MultiDiscrete([2, 3]), a=spaces.Box(0, 1, (2, 2))), (9,)),
}
for name, (space, _) in OBSERVATIONS.items():
    gymnasium.register(f"Sampling{name}-v0", Sampling, kwargs={"observation_space": space})
gymnasium.register(
    "SamplingSteer-v0",
    Sampling,
    kwargs={"observation_space": spaces.Discrete(2), "action_space": spaces.Box(-1, 1, (2,))},
)
gymnasium.register(
    "SamplingList-v0",
    Sampling,
    kwargs={"observation_space": spaces.Sequence(spaces.Discrete(2), stack=True)},
)


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observations_of_every_space_become_images_or_vectors(name: str) -> None:
    space, shape = OBSERVATIONS[name]
    env = GymnasiumConfig(id=f"Sampling{name}-v0").make(2, [5, 6])
    assert env.spec.observation_shape == shape
    obs = env.reset()
    image = name in ("Colour", "Grey")
    assert obs.dtype == (np.uint8 if image else np.float32)
    for column, seed in enumerate((5, 6)):
        space.seed(seed)
        truth: Any = space.sample()
        if name == "Colour":
            truth = truth.transpose(2, 0, 1)
        elif name not in ("Grey", "Grid", "Ints"):
            truth = spaces.flatten(space, truth)
        np.testing.assert_allclose(obs[column].reshape(-1), np.ravel(truth), rtol=1e-6)
    assert env.step(np.zeros(2, np.int64)).obs.shape == (2, *shape)


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("CartPol-v1", "id: got 'CartPol-v1', .* Did you mean: `CartPole`"),
        ("CartPole-v9", "provides versioned environments"),
        ("os:Env-v0", "a module is not imported because a config names it"),
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
