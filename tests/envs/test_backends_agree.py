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
        ("Breakout", 500, {}),
        ("SpaceInvaders", 1100, {"frame_stack": 2}),
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
        play(alike("Breakout", backend, **config), 450, render=True) for backend in BACKENDS
    )
    assert {bool(step.truncated[0]) for step in expected[1] if step.games} == {False, True}
    for step, ours, truth in zip(expected[1], given[2], expected[2], strict=True):
        if not step.terminated[0]:
            np.testing.assert_array_equal(ours, truth)


COLUMNS, GAMES_PER_COLUMN = 20, 10
MARGIN = 0.25
"""Largest difference of means that counts as agreement, as a share of the standard deviation over
games, or of the mean where that is larger. With 200 games each, the 99.9 % interval of the
difference of equal distributions reaches to about 0.33 standard deviations of chance alone, so
that the interval has to overlap with the margin, and hold 0."""


def random_play(game: str, backend: str) -> list[Game]:
    """A fixed quota of whole games per column, by random actions, from drawn no-op starts."""
    config = AtariConfig(game=game, backend=backend, episodic_life=False)  # type: ignore[arg-type]
    env = config.make(COLUMNS, range(100, 100 + COLUMNS))
    env.reset()
    rng = np.random.default_rng(BACKENDS.index(backend))
    left, games = np.full(COLUMNS, GAMES_PER_COLUMN), []
    while left.any():
        for ended in env.step(rng.integers(0, env.spec.num_actions, COLUMNS)).games:
            if left[ended.column]:
                left[ended.column] -= 1
                games.append(ended)
    env.close()
    return games


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_random_play_has_the_same_statistics(tmp_path: Path) -> None:
    """Returns and lengths of 200 games each; FWP_RL_OUTPUT=FOLDER keeps the figures."""
    rows = []
    for game in ("Breakout", "SpaceInvaders", "Qbert", "MsPacman", "Assault"):
        envpool, ale = (random_play(game, backend) for backend in BACKENDS)
        for what in ("episode_return", "length"):
            x, y = (np.array([getattr(g, what) for g in games], float) for games in (envpool, ale))
            difference = y.mean() - x.mean()
            half = 3.29 * np.sqrt(x.var(ddof=1) / len(x) + y.var(ddof=1) / len(y))
            rows.append(
                {
                    "game": game,
                    "what": what,
                    "envpool": x.mean(),
                    "ale": y.mean(),
                    "std": x.std(ddof=1),
                    "interval": [difference - half, difference + half],
                }
            )
    folder = Path(os.environ.get("FWP_RL_OUTPUT", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "atari_backends.json").write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        low, high = row["interval"]
        margin = MARGIN * max(row["std"], abs(row["envpool"]))
        assert low < 0 < high, row
        assert abs(low + high) / 2 < margin, row
