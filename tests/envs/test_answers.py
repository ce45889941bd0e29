"""Numbers that nobody can learn from are refused where they enter, and named with their place."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from fwp_rl.agents.impala import IMPALAConfig
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.agents.pqn import PQNConfig
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.envs import AnswerError
from fwp_rl.envs.gym import GymnasiumConfig
from fwp_rl.envs.toy import ScriptedConfig, ScriptedEpisode
from fwp_rl.models.encoders import MLPConfig
from fwp_rl.rl.actors import ActorsConfig
from fwp_rl.runs.config import TrainConfig

SPACES: dict[str, spaces.Space[Any]] = {
    "vector": spaces.Box(-np.inf, np.inf, (3,), np.float64),
    "image": spaces.Box(-np.inf, np.inf, (6, 5, 3), np.float32),
    "dict": spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(-np.inf, np.inf, (2,), np.float64)),
}
QUIET = (5, 6)
"""Seeds of columns that plant nothing."""


class Planted(gymnasium.Env[Any, Any]):
    """Answers zeros, but for one number at one step of each episode."""

    action_space = spaces.Discrete(2)

    def __init__(self, kind: str, reward: bool, value: str, step: int) -> None:
        self.observation_space = SPACES[kind]
        self.kind, self.reward, self.value, self.step_of_value = kind, reward, float(value), step

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.planting = seed not in QUIET
        self.steps = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        reward = self.value if self.reward and self.due() else 0.0
        return self.observe(), reward, False, False, {}

    def due(self) -> bool:
        return self.planting and self.steps == self.step_of_value

    def observe(self) -> Any:
        value = self.value if self.due() and not self.reward else 0.0
        if self.kind == "dict":
            return {"a": 1, "b": np.array([0, value])}
        obs = np.zeros(SPACES[self.kind].shape or (), SPACES[self.kind].dtype)
        obs[..., 1] = value
        return obs


gymnasium.register("Planted-v0", Planted, max_episode_steps=50)


def planted(kind: str, value: float, step: int, *, reward: bool = False) -> GymnasiumConfig:
    kwargs = {"kind": kind, "reward": reward, "value": str(value), "step": step}
    return GymnasiumConfig(id="Planted-v0", kwargs=kwargs)


def play(config: GymnasiumConfig, steps: int) -> list[Any]:
    env = config.make(3, [QUIET[0], 7, QUIET[1]])
    return [env.reset(), *(env.step(np.zeros(3, np.int64)) for _ in range(steps))]


@pytest.mark.parametrize(
    ("value", "said"), [(np.inf, "inf"), (-np.inf, "-inf"), (np.nan, "nan"), (-1e39, r"-1e\+39")]
)
def test_a_reward_is_named_by_environment_step_and_value(value: float, said: str) -> None:
    config = planted("vector", value, 3, reward=True)
    play(config, 2)
    with pytest.raises(
        AnswerError,
        match=rf"gymnasium/Planted-v0: environment 1 answered step 3 \(2 steps into its game\) "
        rf"with reward {said}, expected finite",
    ):
        play(config, 3)


CASES = [
    (kind, place, value, said)
    for kind, place in (("vector", r"\[1\]"), ("image", r"\[1, 0, 0\]"), ("dict", r"\[3\]"))
    for value, said in ((np.nan, "nan"), (-np.inf, "-inf"), (1e39, "inf"))
    if kind != "image" or abs(value) != 1e39  # this one is of float32
]


@pytest.mark.parametrize(("kind", "place", "value", "said"), CASES)
@pytest.mark.filterwarnings("error:overflow:RuntimeWarning", "ignore:.*not within the observation")
def test_an_observation_is_named_by_environment_step_value_and_place(
    kind: str, place: str, value: float, said: str
) -> None:
    with pytest.raises(
        AnswerError, match=rf"environment 1 began with an observation that holds {said} at {place}"
    ):
        play(planted(kind, value, 0), 0)
    with pytest.raises(
        AnswerError, match=rf"environment 1 answered step 2 \(1 .* observation .* {said} at {place}"
    ):
        play(planted(kind, value, 2), 2)


def test_what_is_large_and_finite_passes() -> None:
    assert play(planted("vector", 3e38, 2, reward=True), 2)[-1].reward[1] == np.float32(3e38)
    assert play(planted("vector", -1e31, 2), 2)[-1].obs[1, 1] == np.float32(-1e31)


def test_games_before_it_are_told_apart() -> None:
    script = (ScriptedEpisode(rewards=(1.0, 1.0)), ScriptedEpisode(rewards=(1.0, 1.0)))
    object.__setattr__(script[1], "rewards", (1.0, np.inf))  # which a script may not say
    env = ScriptedConfig(columns=(script,)).make(1, [0])
    env.reset()
    for _ in range(4):  # two steps, a dummy, one step
        env.step(np.zeros(1, np.int64))
    with pytest.raises(AnswerError, match=r"answered step 5 \(1 steps into its game\)"):
        env.step(np.zeros(1, np.int64))


SMALL = {
    "encoder": MLPConfig(hidden_sizes=(8,), activation="relu"),
    "core": FeedforwardConfig(),
    "num_envs": 2,
    "total_steps": 300,
    "evaluation_games": 0,
    "plain": True,
}
AGENTS: dict[str, TrainConfig] = {
    "ppo": PPOConfig(rollout_length=8, minibatches=1, **SMALL),  # type: ignore[arg-type]
    "impala": IMPALAConfig(
        unroll_length=8,
        batch_size=2,
        actors=ActorsConfig(count=1),
        **SMALL,  # type: ignore[arg-type]
    ),
    "pqn": PQNConfig(rollout_length=8, minibatches=1, **SMALL),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("agent", AGENTS)
def test_training_ends_with_the_answers_own_error(agent: str, tmp_path: Path) -> None:
    """Clipped, an infinite reward would pass for 1, and no return could be written down."""
    env = planted("vector", np.inf, 20, reward=True)
    with pytest.raises(AnswerError, match=r"environment 0 answered step .* with reward inf"):
        replace(AGENTS[agent], env=env, run_dir=str(tmp_path / "run")).train()


@pytest.mark.parametrize(
    ("agent", "reward"),
    # a LayerNorm takes features of any size, and makes nothing of them
    [(agent, reward) for agent in AGENTS for reward in (False, True) if agent != "pqn" or reward],
)
def test_large_numbers_are_named_where_the_gradient_overflows(
    agent: str, reward: bool, tmp_path: Path
) -> None:
    env = planted("vector", 3e38, 20, reward=reward)
    config = replace(AGENTS[agent], env=env, reward_clip=None, run_dir=str(tmp_path / "run"))
    name = "rewards" if reward else "observations"
    with pytest.raises(FloatingPointError, match=rf"learned from {name} up to 3e\+38: scale"):
        config.train()
