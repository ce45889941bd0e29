"""envpool and ale-py, two implementations of one contract: the same games, step by step where
both start alike, and the same statistics of random play where their starts are drawn."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fwp_rl.envs import EnvStep, Game
from fwp_rl.envs.atari import AtariConfig

BACKENDS = ("envpool", "ale")


def alike(game: str, backend: str, **arguments: Any) -> AtariConfig:
    """Both backends start a game with one frame of FIRE, and nothing is left to chance."""
    return AtariConfig(game=game, backend=backend, noop_max=0, **arguments)  # type: ignore[arg-type]


def play(
    config: AtariConfig, num_steps: int, *, seeds: tuple[int, ...] = (0,), render: bool = False
) -> tuple[NDArray[np.uint8], list[EnvStep], list[NDArray[np.uint8]]]:
    """First observation, steps and, with ``render``, column 0's screens of random actions."""
    env = config.make(len(seeds), seeds, render=render)
    rng = np.random.default_rng(3)
    first, steps, screens = env.reset(), [], []
    for _ in range(num_steps):
        steps.append(env.step(rng.integers(0, env.spec.num_actions, len(seeds))))
        if render:
            screens.append(env.render(0))
    env.close()
    return first, steps, screens


@pytest.mark.parametrize(
    ("game", "num_steps", "arguments"),
    [
        ("Breakout", 350, {}),
        pytest.param("SpaceInvaders", 1100, {"frame_stack": 2}, marks=pytest.mark.slow),
        ("Pong", 250, {"max_frames": 401}),
        ("Qbert", 500, {"frame_skip": 3, "sticky_actions": 0.25}),
    ],
)
def test_games_that_start_alike_are_the_same_step_by_step(
    game: str, num_steps: int, arguments: dict[str, Any]
) -> None:
    """Whole games as episodes: observations, rewards, flags and games, over several games."""
    expected, given = (
        play(alike(game, backend, episodic_life=False, **arguments), num_steps, seeds=(0, 7))
        for backend in BACKENDS
    )
    np.testing.assert_array_equal(given[0], expected[0])
    assert sum(len(step.games) for step in expected[1]) >= 2
    for ours, truth in zip(given[1], expected[1], strict=True):
        for name in ("reward", "terminated", "truncated", "mask", "reset"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(truth, name), err_msg=name)
        assert ours.games == truth.games
        # ale-py repeats old screens on the step of a game over: its stack's newest is not compared.
        same = ~truth.terminated
        np.testing.assert_array_equal(ours.obs[same], truth.obs[same])
        np.testing.assert_array_equal(ours.obs[:, :-1], truth.obs[:, :-1])


def test_episodes_are_the_same_until_the_first_life_is_lost() -> None:
    """From there on they differ: envpool's hidden frames are not our dummy step."""
    expected, given = (play(alike("Breakout", backend), 200)[1] for backend in BACKENDS)
    first_loss = next(t for t, step in enumerate(expected) if step.terminated[0])
    for ours, truth in zip(given[: first_loss + 1], expected, strict=False):
        np.testing.assert_array_equal(ours.obs, truth.obs)
        np.testing.assert_array_equal(ours.terminated, truth.terminated)
    for steps in (expected, given):
        lost = [t for t, step in enumerate(steps) if step.terminated[0]]
        over = [t for t, step in enumerate(steps) if step.games]
        assert over[0] == lost[4], "five lives"


def test_the_twin_in_colour_shows_envpools_screens() -> None:
    """Over game overs and cuts, which the twin has to follow."""
    config = {"episodic_life": False, "max_frames": 1000}
    expected, given = (
        play(alike("Breakout", backend, **config), 400, render=True) for backend in BACKENDS
    )
    assert {bool(step.truncated[0]) for step in expected[1] if step.games} == {False, True}
    for step, ours, truth in zip(expected[1], given[2], expected[2], strict=True):
        if not step.terminated[0]:
            np.testing.assert_array_equal(ours, truth)


COLUMNS = 20
GAMES_PER_COLUMN = {
    "Breakout": 40,
    "Freeway": 10,
    "MsPacman": 10,
    "Seaquest": 10,
    "SpaceInvaders": 10,
}
"""200 games of each, 800 of Breakout: there a game is short, and most of them score 0 to 2."""
MARGIN = 0.6
"""Two means agree if the whole 99.9 % interval of their difference lies within this many standard
deviations of a single game. With 200 games each, chance alone gives the difference a standard error
of 0.1 of them and the interval a half-width of 0.33: the margin is what so many games can hold."""
FLOOR = 0.1
"""The same, in points or steps, where all games are alike: nobody scores in Freeway at random."""


def random_play(game: str, backend: str) -> list[Game]:
    """A fixed quota of whole games per column, so that short games are not preferred; by random
    actions, from drawn no-op starts, each backend with seeds of its own."""
    config = AtariConfig(game=game, backend=backend, episodic_life=False)  # type: ignore[arg-type]
    seed = 100 * (1 + BACKENDS.index(backend))
    env = config.make(COLUMNS, range(seed, seed + COLUMNS))
    env.reset()
    rng = np.random.default_rng(seed)
    left, games = np.full(COLUMNS, GAMES_PER_COLUMN[game]), []
    while left.any():
        for ended in env.step(rng.integers(0, env.spec.num_actions, COLUMNS)).games:
            if left[ended.column]:
                left[ended.column] -= 1
                games.append(ended)
    env.close()
    return games


def compare(expected: list[float], given: list[float]) -> dict[str, Any]:
    """Means, and Welch's 99.9 % interval of their difference, normal for so many games."""
    x, y = np.array(expected), np.array(given)
    difference = y.mean() - x.mean()
    half = 3.2905 * np.sqrt(x.var(ddof=1) / len(x) + y.var(ddof=1) / len(y))
    deviation = np.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2)
    return {
        "games": len(x),
        "envpool": x.mean(),
        "ale": y.mean(),
        "deviation": deviation,
        "interval": [difference - half, difference + half],
        "margin": max(MARGIN * deviation, FLOOR),
    }


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("game", GAMES_PER_COLUMN)
def test_random_play_has_the_same_statistics(game: str, tmp_path: Path) -> None:
    """Returns and lengths of whole games, a quarter of an hour for all five on 2 busy cores.
    FWP_RL_OUTPUT=FOLDER keeps the figures. Lives end no episodes here: the frames around a lost
    life are the one thing in which the backends differ by design."""
    envpool, ale = (random_play(game, backend) for backend in BACKENDS)
    rows = []
    for what in ("episode_return", "length"):
        columns = ([float(getattr(g, what)) for g in games] for games in (envpool, ale))
        rows.append({"game": game, "what": what, **compare(*columns)})
    folder = Path(os.environ.get("FWP_RL_OUTPUT", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"atari_backends-{game}.json").write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        low, high = row["interval"]
        assert max(-low, high) < row["margin"], row
