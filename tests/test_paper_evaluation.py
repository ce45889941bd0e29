"""The papers' evaluation: single lives, which add up to the games that ``evaluate`` counts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fwp_rl import paper_evaluation
from fwp_rl.cli import main
from fwp_rl.config import ConfigError
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.evaluation import make_actor, open_policy
from fwp_rl.models.actions import Greedy
from fwp_rl.models.encoders import MLPConfig, NatureCNNConfig
from fwp_rl.models.policy import Policy, PolicyConfig
from fwp_rl.paper_evaluation import MAX_FRAMES, evaluate_paper, paper_table
from fwp_rl.runs.policy import save_policy
from fwp_rl.runs.seeding import env_seeds

BREAKOUT = AtariConfig(game="Breakout")
LIVES = 5


def save(folder: Path, env=BREAKOUT, encoder=None) -> Path:
    torch.manual_seed(0)
    config = PolicyConfig(
        encoder=encoder or NatureCNNConfig(features=16),
        core=DeltaNetConfig(layers=1, hidden_size=8, heads=2, feedforward_size=8),
    )
    policy = Policy(config, env.spec())
    with torch.no_grad():  # large logits, so that the most probable action changes with the screen
        policy.policy_head.weight.mul_(1000)
    save_policy(folder, policy, env=env, metadata={"step": 7})
    return folder


def test_lives_add_up_to_games(tmp_path, monkeypatch):
    monkeypatch.setattr(paper_evaluation, "EPISODES", LIVES)
    path = save(tmp_path / "policy")
    result = evaluate_paper(path, output=tmp_path / "paper.json")
    lives = np.array(result["returns"])
    assert lives.shape == (5, LIVES)

    # the same games once more, as whole games
    saved = open_policy(path, "last")
    env = replace(BREAKOUT, max_frames=MAX_FRAMES).make(
        5, env_seeds(0, 5, stream="paper-evaluation")
    )
    actor = make_actor(saved.policy, env, rule=Greedy(), seed=0, device=torch.device("cpu"))
    games: dict[int, float] = {}
    while len(games) < 5:
        for game in actor.step().answer.games:
            games.setdefault(game.column, game.episode_return)
    env.close()
    assert lives.sum(axis=1).tolist() == [games[column] for column in range(5)]

    summary = result["summary"]
    means = lives.mean(axis=1)
    assert summary["mean"] == pytest.approx(means.mean())
    assert summary["std_of_run_means"] == pytest.approx(
        np.sqrt(((means - means.mean()) ** 2).mean())
    )
    assert result["protocol"]["name"] == "paper"
    assert result["environment"]["rules"]["max_frames"] == MAX_FRAMES
    assert "single lives" in str(paper_table(result).title)


@pytest.mark.parametrize(
    ("env", "encoder", "words"),
    [
        (RecallConfig(), MLPConfig(), "lives of Atari games"),
        (AtariConfig(game="Breakout", protocol="machado"), None, "rules of classic"),
        (AtariConfig(game="Breakout", episodic_life=False), None, "rules of classic"),
    ],
)
def test_other_policies_are_refused(tmp_path, env, encoder, words):
    path = save(tmp_path / "policy", env, encoder)
    with pytest.raises(ConfigError, match=words):
        evaluate_paper(path)


def test_the_command_line_refuses_a_number_of_games(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(tmp_path), "--protocol", "paper", "--games", "3"])
    assert stopped.value.code == 2
    assert "leave --games out" in capsys.readouterr().err
