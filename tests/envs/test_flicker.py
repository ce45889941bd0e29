"""Flicker: how often, when and how long a screen is black, alone and in real games."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fwp_rl.config import ConfigError
from fwp_rl.envs import EnvStep
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.envs.flicker import Flicker

SEEDS = [2, 71, 828]
NUM_STEPS = 100
BREAKOUT = AtariConfig(game="Breakout", frame_stack=4, max_frames=300)
"""Loses lives and starts games within NUM_STEPS, and never has a black screen of its own."""


def draw(probability: float, seeds: list[int], num_steps: int) -> NDArray[np.bool_]:
    """Which screens are black ``[T, B]``, one screen to an observation."""
    flicker = Flicker(probability, 1, seeds)
    white = np.full((len(seeds), 1, 2, 2), 255, np.uint8)
    white.setflags(write=False)
    nothing = np.zeros(len(seeds), np.bool_)
    obs = np.stack([flicker(white, nothing) for _ in range(num_steps)])
    assert set(np.unique(obs)) <= {0, 255}
    assert (obs == obs[..., :1, :1]).all(), "a screen is black as a whole or not at all"
    black: NDArray[np.bool_] = obs[:, :, 0, 0, 0] == 0
    return black


@dataclass
class Stream:
    obs: NDArray[np.uint8]
    """[T + 1, B, screens, 84, 84]"""
    steps: list[EnvStep]

    @property
    def black(self) -> NDArray[np.bool_]:
        """[T + 1, B, screens]"""
        black: NDArray[np.bool_] = (self.obs == 0).all(axis=(-2, -1))
        return black


def play(config: AtariConfig, seeds: list[int], num_steps: int = NUM_STEPS) -> Stream:
    """Random actions, the same for every column and every config."""
    env = config.make(len(seeds), seeds)
    obs = [env.reset()]
    actions = np.random.default_rng(0).integers(0, env.spec.num_actions, num_steps)
    steps = [env.step(np.full(len(seeds), action)) for action in actions]
    env.close()
    return Stream(obs=np.stack(obs + [step.obs for step in steps]), steps=steps)


@pytest.fixture(scope="module", params=["envpool", pytest.param("ale", marks=pytest.mark.slow)])
def config(request: pytest.FixtureRequest) -> AtariConfig:
    return replace(BREAKOUT, backend=request.param)


@pytest.fixture(scope="module")
def plain(config: AtariConfig) -> Stream:
    return play(config, SEEDS)


@pytest.fixture(scope="module")
def flickering(config: AtariConfig) -> Stream:
    return play(replace(config, flicker=0.5), SEEDS)


@pytest.mark.parametrize("probability", [0.03, 0.5, 0.9])
def test_screens_are_black_with_the_given_probability(probability: float) -> None:
    num_steps, seeds = 1500, list(range(60))
    black = draw(probability, seeds, num_steps)
    deviation = np.sqrt(probability * (1 - probability) / num_steps)
    assert abs(black.mean() - probability) < 4 * deviation / np.sqrt(len(seeds))
    assert np.abs(black.mean(axis=0) - probability).max() < 5 * deviation, "in every column"


def test_the_ends_of_the_range_are_always_and_never() -> None:
    assert draw(1.0, SEEDS, 200).all()
    assert not draw(0.0, SEEDS, 200).any()


def test_draws_are_independent_of_those_before_and_of_the_neighbours() -> None:
    sign = np.where(draw(0.5, list(range(40)), 1000), 1.0, -1.0)
    for lag in (1, 2, 3, 4):
        assert abs((sign[lag:] * sign[:-lag]).mean()) < 4 / np.sqrt(sign[lag:].size)
    for apart in (1, 2, 7):
        product = sign[:, apart:] * sign[:, :-apart]
        assert abs(product.mean()) < 4 / np.sqrt(product.size)


def test_a_column_draws_from_its_own_seed_alone() -> None:
    together = draw(0.5, SEEDS, 300)
    np.testing.assert_array_equal(draw(0.5, SEEDS, 300), together)
    for column, seed in enumerate(SEEDS):
        np.testing.assert_array_equal(draw(0.5, [seed], 300)[:, 0], together[:, column])
    assert len({column.tobytes() for column in together.T}) == len(SEEDS)


def test_a_black_screen_moves_through_the_stack_and_a_new_game_fills_it_with_one_draw() -> None:
    flicker = Flicker(0.5, 4, list(range(50)))
    white = np.full((50, 4, 2, 2), 255, np.uint8)
    rng = np.random.default_rng(0)
    started = np.ones(50, np.bool_)
    before = flicker(white, started)
    assert 5 < (before[:, 0, 0, 0] == 0).sum() < 45, "each column draws"
    for _ in range(60):
        for column in np.flatnonzero(started).tolist():
            assert (before[column] == before[column, :1]).all()
        started = rng.random(50) < 0.1
        now = flicker(white, started)
        np.testing.assert_array_equal(now[~started, :-1], before[~started, 1:])
        before = now


def test_the_emulation_is_not_disturbed(plain: Stream, flickering: Stream) -> None:
    assert not plain.black.any(), "a screen that is black anyway would show nothing here"
    shown = ~flickering.black
    np.testing.assert_array_equal(flickering.obs[shown], plain.obs[shown])
    for bare, step in zip(plain.steps, flickering.steps, strict=True):
        for name in ("reset", "reward", "terminated", "truncated", "mask"):
            np.testing.assert_array_equal(getattr(step, name), getattr(bare, name))
        assert step.games == bare.games


def test_games_flicker_in_a_stack_of_screens(flickering: Stream) -> None:
    black = flickering.black
    newest = black[..., -1]
    assert abs(newest.mean() - 0.5) < 4 * 0.5 / np.sqrt(newest.size)
    lives, games = 0, len(SEEDS)
    for column in range(len(SEEDS)):
        assert len(set(black[0, column])) == 1
        for t, step in enumerate(flickering.steps):
            game_ended = t > 0 and any(g.column == column for g in flickering.steps[t - 1].games)
            if game_ended:
                games += 1
                assert len(set(black[t + 1, column])) == 1, "filled with the first screen"
            else:
                lives += not step.mask[column]
                np.testing.assert_array_equal(black[t + 1, column, :-1], black[t, column, 1:])
    assert lives >= 4
    assert games >= 6


def test_the_stack_is_filled_when_a_game_ends_inside_the_hidden_no_ops() -> None:
    """Road Runner, standing in the way, as in atari/test_envpool.py."""
    env = AtariConfig(game="RoadRunner", flicker=0.5, frame_stack=4).make(3, [5, 8, 14])
    env.reset()
    fills = []
    for _ in range(130):
        step = env.step(np.full(3, 3))
        fills += [step.obs[game.column] for game in step.games if not step.mask[game.column]]
    assert len(fills) >= 4
    for stack in fills:
        assert (stack == stack[:1]).all()


def test_a_column_of_a_game_depends_on_its_own_seed_alone(
    config: AtariConfig, flickering: Stream
) -> None:
    again = play(replace(config, flicker=0.5), [SEEDS[1], 5], 30)
    np.testing.assert_array_equal(again.obs[:, 0], flickering.obs[:31, 1])
    assert (again.black[:, 1] != again.black[:, 0]).any()


def test_one_screen_is_the_default_with_flicker_and_four_without() -> None:
    shapes: list[tuple[dict[str, Any], int]] = [
        ({}, 4),
        ({"flicker": 0.0}, 4),
        ({"flicker": 0.5}, 1),
        ({"flicker": 0.5, "frame_stack": 3}, 3),
    ]
    for arguments, screens in shapes:
        config = AtariConfig(game="Pong", **arguments)
        assert config.spec().observation_shape == (screens, 84, 84)
    env = AtariConfig(game="Pong", flicker=0.5).make(1, [0])
    assert env.reset().shape == (1, 1, 84, 84)
    assert env.describe()["flicker"] == 0.5


def test_alone_it_is_the_newest_screen_that_is_shown_or_not(
    config: AtariConfig, plain: Stream
) -> None:
    blinking = play(replace(config, flicker=0.5, frame_stack=None), SEEDS, 60)
    shown = ~blinking.black
    assert shown.shape[-1] == 1
    np.testing.assert_array_equal(blinking.obs[shown], plain.obs[:61, :, -1:][shown])
    assert abs(shown.mean() - 0.5) < 4 * 0.5 / np.sqrt(shown.size)


@pytest.mark.parametrize("probability", [-0.1, 1.5, float("nan"), True, "0.5"])
def test_what_is_no_probability_is_refused(probability: Any) -> None:
    with pytest.raises(ConfigError, match="flicker: got"):
        AtariConfig(flicker=probability)
