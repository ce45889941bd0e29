"""Training, evaluation and film play alike: the same policy, environment seeds and action draws
give the same games, return by return and length by length."""

from contextlib import closing

import pytest
import torch

from fwp_rl import filming
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.envs.minigrid import MiniGridConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.evaluation.playing import make_actor, play
from fwp_rl.models.encoders import MLPConfig
from fwp_rl.models.policy import Policy, PolicyConfig
from fwp_rl.reports import moments
from fwp_rl.rl.collector import Collector
from fwp_rl.runs.policy import save_policy
from fwp_rl.runs.seeding import env_seeds

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
ROLLOUT = 7
"""Steps that are collected at a time: games end in the middle of it."""
ENVS = {
    "recall": RecallConfig(max_delay=12),
    "minigrid": MiniGridConfig(task="MemoryS7"),
    "pong": AtariConfig(game="Pong", max_frames=600),
    "breakout": AtariConfig(game="Breakout", max_frames=1200),
    "breakout, machado": AtariConfig(game="Breakout", protocol="machado", max_frames=800),
    "breakout, ale": AtariConfig(game="Breakout", backend="ale", max_frames=800),
}


def policy_for(env) -> Policy:
    core = DeltaNetConfig() if isinstance(env, RecallConfig) else FeedforwardConfig()
    torch.manual_seed(3)
    encoder = MLPConfig(hidden_sizes=(16,))
    return Policy(PolicyConfig(encoder=encoder, core=core), env.spec()).eval()


def training_games(policy, env, seeds, count, *, seed):
    """The first ``count`` games of each column, as training collects them."""
    with closing(env.make(len(seeds), seeds)) as made:
        actor = make_actor(policy, made, seed=seed, device=CPU)
        collector = Collector(actor, ROLLOUT)
        games = [[] for _ in seeds]
        while min(map(len, games)) < count:
            for game in collector.collect()[1]:
                games[game.column].append(game)
    return [game for column in games for game in column[:count]]


@pytest.mark.parametrize("env", ENVS.values(), ids=ENVS)
def test_evaluation_plays_as_training_does(env):
    policy = policy_for(env)
    played = play(policy, env, games=3, seed=5, device=CPU, quiet=True)
    seeds = env_seeds(5, 3, stream="evaluation")
    trained = training_games(policy, env, seeds, played.games_per_column, seed=5)
    assert sorted(played.games, key=lambda game: game.column) == trained
    assert len({(game.episode_return, game.length) for game in trained}) > 1


@pytest.mark.parametrize("env", ENVS.values(), ids=ENVS)
def test_a_film_plays_as_training_does(env, tmp_path, monkeypatch):
    """The film's own moments, game by game: their sums are the games' returns."""
    policy = policy_for(env)
    save_policy(tmp_path / "policy", policy, env=env, metadata={"step": 1})
    seen = []

    def kept(*given, **more):
        seen.extend(moments.play(*given, **more))
        return seen

    monkeypatch.setattr(filming, "play", kept)
    filming.record_video(
        tmp_path / "policy", seed=5, games=2, still=True, output=tmp_path / "a.png", device="cpu"
    )
    filmed = [[m for m in seen if m.game == number] for number in (0, 1)]
    trained = training_games(policy, env, env_seeds(5, 1, stream="video"), 2, seed=5)
    for game, moments_of_game in zip(trained, filmed, strict=True):
        assert sum(moment.reward for moment in moments_of_game) == pytest.approx(
            game.episode_return, abs=1e-6
        )
        assert moments_of_game[-1].score == pytest.approx(game.episode_return, abs=1e-6)
        resets = sum(moment.reset for moment in moments_of_game)
        ignored = len(moments_of_game) - game.length
        # a step is ignored after each end, so that all but a run's first episode have one
        assert ignored in (resets, resets - 1)
