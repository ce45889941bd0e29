"""Scores of training: their expectation is the truth, for any mix of lengths."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.envs import EnvConfig, Game, VectorEnv
from fwp_rl.envs.toy import RecallConfig, ScriptedConfig, ScriptedEpisode
from fwp_rl.models.encoders import MLPConfig
from fwp_rl.runs.checkpoint import best, load_checkpoint
from fwp_rl.runs.metrics import read_metrics
from fwp_rl.training.scores import AHEAD, BLOCK_GAMES, TrainingScores
from fwp_rl.types import EnvSpec

SHORT, LONG = (2, 1.0), (40, 0.0)
"""Length and return of the games: the policy has no influence, and the truth is 0.5."""


class Players:
    """Environments in which half of the games are short and good, half long and bad."""

    def __init__(self, num_envs: int, seed: int) -> None:
        self.draws = np.random.default_rng(seed)
        self.left = np.zeros(num_envs, int)
        self.returns = np.zeros(num_envs)
        self.lengths = np.zeros(num_envs, int)
        self._begin(np.ones(num_envs, bool))

    def step(self) -> list[Game]:
        self.left -= 1
        over = self.left == 0
        games = [
            Game(
                column=column,
                episode_return=self.returns[column],
                length=int(self.lengths[column]),
                truncated=False,
            )
            for column in np.flatnonzero(over).tolist()
        ]
        self._begin(over)
        return games

    def _begin(self, where: np.ndarray) -> None:
        short = self.draws.random(len(where)) < 0.5
        self.lengths[where] = np.where(short, SHORT[0], LONG[0])[where]
        self.returns[where] = np.where(short, SHORT[1], LONG[1])[where]
        self.left[where] = self.lengths[where]


def run(num_envs: int, seed: int, steps: int, stops: tuple[int, ...] = ()) -> tuple[float, float]:
    """The first score, and that after so many steps; the run is stopped and resumed at ``stops``,
    when the games under way are lost."""
    scores, players, first = TrainingScores(RecallConfig(), num_envs), Players(num_envs, seed), None
    for step in range(steps):
        if step in stops:
            state = scores.state()
            scores = TrainingScores(RecallConfig(), num_envs)
            scores.restore(state["games"], state["blocks"])
            players = Players(num_envs, seed + 10_000 * (1 + stops.index(step)))
        scores.enter(players.step())
        first = scores.score if first is None else first
    assert first is not None
    assert scores.score is not None
    return first, scores.score


@pytest.mark.parametrize("num_envs", [8, 64])
def test_short_games_are_not_favoured(num_envs: int) -> None:
    """The mean of the first hundred games to end is above 0.9 here."""
    runs = [run(num_envs, seed, 400, stops) for seed in range(60) for stops in ((), (130, 260))]
    for which in zip(*runs, strict=True):
        error = np.std(which) / np.sqrt(len(which))
        assert abs(np.mean(which) - 0.5) < 4 * error
        assert error < 0.02


def test_there_is_no_score_before_every_environment_has_finished_its_games() -> None:
    scores = TrainingScores(RecallConfig(), 2)
    game = Game(column=0, episode_return=1.0, length=3, truncated=False)
    scores.enter([game] * 50)
    assert scores.score is None
    assert scores.metrics() == {"charts/games": 50}
    scores.enter([replace(game, column=1, episode_return=0.0)] * (BLOCK_GAMES // 2))
    assert scores.score == 0.5
    assert scores.metrics()["charts/episode_length"] == 3


def test_what_waits_for_the_slowest_environment_is_bounded() -> None:
    scores = TrainingScores(RecallConfig(), 2)
    game = Game(column=0, episode_return=1.0, length=1, truncated=False)
    for _ in range(10_000):
        scores.enter([game])
    waiting = BLOCK_GAMES // 2 * AHEAD
    scores.enter([replace(game, column=1)] * 10 * waiting)
    assert len(scores.state()["blocks"]) <= 1 + 100 // BLOCK_GAMES
    assert scores.metrics()["charts/games"] == 10_000 + 10 * waiting


@dataclass(frozen=True, kw_only=True)
class GamesByChance(EnvConfig):
    """The same games, for whole trainings."""

    seed: int = 0

    def spec(self) -> EnvSpec:
        return EnvSpec(name="games_by_chance", observation_shape=(3,), num_actions=3)

    def make(self, num_envs: int, seeds: Sequence[int], **rest: Any) -> VectorEnv:  # type: ignore[override]
        draws = np.random.default_rng([self.seed, *seeds])
        script = ScriptedConfig(columns=tuple(a_column(draws) for _ in range(num_envs)))
        return script.make(num_envs, seeds, **rest)


def a_column(draws: np.random.Generator) -> tuple[ScriptedEpisode, ...]:
    """So many games that the script does not begin anew."""
    games = []
    for short in draws.random(100) < 0.5:
        length, result = SHORT if short else LONG
        games.append(ScriptedEpisode(rewards=(0.0,) * (length - 1) + (result,)))
    return tuple(games)


@pytest.mark.slow
def test_the_first_logged_return_is_the_truth_and_best_is_no_better_than_chance(
    tmp_path: Path,
) -> None:
    """The last games to end would give 1 at first."""
    first, best_scores = [], []
    for seed in range(6):
        config = PPOConfig(
            env=GamesByChance(seed=seed),
            encoder=MLPConfig(hidden_sizes=(8,)),
            core=FeedforwardConfig(),
            num_envs=64,
            rollout_length=8,
            minibatches=1,
            epochs=1,
            total_steps=64 * 8 * 16,
            checkpoint_minutes=1e-9,
            evaluation_games=0,
            plain=True,
            run_dir=str(tmp_path / str(seed)),
        )
        run = config.train()
        rows = read_metrics(run / "metrics.jsonl")
        means = [row["charts/episode_return"] for row in rows if "charts/episode_return" in row]
        assert len(means) < len(rows)
        first.append(means[0])
        score = load_checkpoint(best(run / "checkpoints")).score
        assert score is not None
        best_scores.append(score)
    error = 0.5 / np.sqrt(64 * len(first))
    assert abs(np.mean(first) - 0.5) < 4 * error
    assert np.mean(best_scores) < 0.5 + 8 * error, "the best of some, each of 64 games or more"
