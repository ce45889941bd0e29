"""PQN: its loss against a slow oracle, its runs, and what its memory can learn."""

import dataclasses
import json
import shutil
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fwp_rl
from fwp_rl import agents
from fwp_rl.agents import pqn
from fwp_rl.agents.pqn import PQNConfig, pqn_loss
from fwp_rl.config import ConfigError
from fwp_rl.cores import CORES
from fwp_rl.cores.rnn import GRUConfig
from fwp_rl.envs.toy import RecallConfig, ScriptedConfig, ScriptedEpisode
from fwp_rl.evaluation import evaluate
from fwp_rl.models import Greedy, MLPConfig, NatureCNNConfig, Policy, QNetwork
from fwp_rl.rl.collector import Actor, Collector
from fwp_rl.runs.checkpoint import checkpoint_path, checkpoint_steps, load_checkpoint
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.metrics import read_metrics
from fwp_rl.runs.results import score
from fwp_rl.training.descent import Descent
from fwp_rl.types import Rollout

SMALL = PQNConfig(
    env=RecallConfig(),
    encoder=MLPConfig(hidden_sizes=(16,), layer_norm=True),
    core=GRUConfig(hidden_size=16),
    num_envs=4,
    minibatches=2,
    rollout_length=8,
    total_steps=100,
    evaluation_games=0,
    plain=True,
)

SCRIPT = ScriptedConfig(
    columns=(
        (ScriptedEpisode(rewards=(1.0, 0.0, -2.0)), ScriptedEpisode(rewards=(0.5,) * 4)),
        (ScriptedEpisode(rewards=(1.0,) * 5, end="truncated"),),
    )
)
SCRIPTED = dataclasses.replace(SMALL, env=SCRIPT, num_envs=2, rollout_length=14)


def network_and_rollout(config: PQNConfig) -> tuple[Policy, Rollout]:
    torch.manual_seed(0)
    policy = config.build_policy()
    env = config.env.make(config.num_envs, range(config.num_envs))
    actor = Actor(policy, env, generator=torch.Generator().manual_seed(0))
    rollout, _ = Collector(actor, config.rollout_length).collect()
    return policy, rollout.with_extras(target=torch.randn(rollout.reward.shape))


@pytest.mark.parametrize("burn_in", [0, 3])
def test_the_loss_is_the_mean_squared_error_of_the_steps_that_count(burn_in: int) -> None:
    config = dataclasses.replace(SCRIPTED, burn_in=burn_in)
    policy, rollout = network_and_rollout(config)
    losses = pqn_loss(config, policy, rollout)
    with torch.no_grad():  # a step at a time, from the stored state
        state, errors = rollout.initial_state, []
        for t in range(14):
            output = policy(rollout.observation.map(lambda x, t=t: x[t : t + 1]), state)
            state = output.state
            for b in range(2):
                if t >= burn_in and rollout.mask[t, b]:
                    q = output.logits[0, b, rollout.action[t, b]]
                    errors.append(float(q - rollout.extras["target"][t, b]) ** 2)
    divisor = rollout.mask[burn_in:].sum()
    assert losses.reduce(divisor).item() == pytest.approx(np.mean(errors) / 2, rel=1e-5)
    metrics = losses.metrics(divisor)
    assert metrics["loss/value"] == pytest.approx(np.mean(errors) / 2, rel=1e-5)
    assert metrics["value/q_deviation"] < 1e-5, "the network that acted is the one that learns"


def test_what_stands_at_a_dummy_step_does_not_matter() -> None:
    policy, rollout = network_and_rollout(SCRIPTED)
    loss = pqn_loss(SCRIPTED, policy, rollout).reduce(rollout.mask.sum())
    dummy = ~rollout.mask
    assert dummy.any()
    for poisoned in (rollout.extras["target"], rollout.value, rollout.reward):
        poisoned[dummy] = torch.nan
    rollout.behaviour_logits[dummy] = torch.nan
    again = pqn_loss(SCRIPTED, policy, rollout)
    assert again.reduce(rollout.mask.sum()).item() == loss.item()
    assert all(x.isfinite() for x in again.metrics(rollout.mask.sum()).values())
    again.reduce(rollout.mask.sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.parameters())


def test_shards_add_up_to_the_gradient_of_the_whole_minibatch() -> None:
    """Also where the shards have unequal numbers of dummies."""
    gradients = []
    for shards in (1, 2):
        policy, rollout = network_and_rollout(SCRIPTED)
        config = dataclasses.replace(SCRIPTED, minibatches=1, epochs=1, gradient_shards=shards)
        optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
        with closing(Descent(config, policy, optimizer, cores=1)) as descend:
            draws = torch.Generator().manual_seed(0)
            pqn._update(config, policy, descend, rollout, generator=draws, step=0)
        gradients.append([p.detach().clone() for p in policy.parameters()])
    assert rollout.mask[:, 0].sum() != rollout.mask[:, 1].sum()
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-7)


def test_the_value_at_the_border_is_that_of_the_carried_state() -> None:
    torch.manual_seed(0)
    policy = QNetwork(SCRIPTED, SCRIPT.spec())
    actor = Actor(policy, SCRIPT.make(2, range(2)), generator=torch.Generator())
    assert actor.rule == Greedy()
    collector = Collector(actor, 7)
    for _ in range(4):
        collector.collect()
        bootstrap = actor.bootstrap_value()
        fresh = policy(actor.observation, policy.initial_state(2)).value[0]
        carries = ~actor.observation.reset[0]
        assert not torch.allclose(bootstrap[carries], fresh[carries]) or not carries.any()
        rollout, _ = collector.collect()
        torch.testing.assert_close(rollout.value[0], bootstrap)


def train(config: PQNConfig, path: Path, **changes: Any) -> Path:
    return dataclasses.replace(config, run_dir=str(path), **changes).train()


def weights(run: Path) -> dict[str, torch.Tensor]:
    return fwp_rl.load_policy(run).state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_one_seed_gives_one_result_and_another_seed_another(tmp_path: Path) -> None:
    first = weights(train(SMALL, tmp_path / "a"))
    assert same(first, weights(train(SMALL, tmp_path / "b")))
    assert not same(first, weights(train(SMALL, tmp_path / "c", seed=2)))


def test_a_resumed_run_goes_on_from_all_that_it_had(tmp_path: Path) -> None:
    run = train(SMALL, tmp_path / "run")
    step = checkpoint_steps(run / "checkpoints")[-1]
    saved = load_checkpoint(checkpoint_path(run / "checkpoints", step))
    assert saved.optimizer["class"] == "RAdam"
    twin = tmp_path / "twin"
    shutil.copytree(run, twin)
    for path in (run, twin):
        longer = dataclasses.replace(SMALL, total_steps=300)
        assert longer.train(resume=path) == path
    assert same(weights(run), weights(twin))
    rows = read_metrics(run / "metrics.jsonl")
    assert rows[-1]["step"] >= 300
    # the schedules are functions of the step, of the run as it is now
    for earlier, row in pairwise(rows):
        if earlier["step"] >= step:
            epsilon = longer.epsilon_at(int(earlier["step"]))
            assert row["policy/epsilon"] == pytest.approx(epsilon)
    counts = load_checkpoint(
        checkpoint_path(run / "checkpoints", checkpoint_steps(run / "checkpoints")[-1])
    )
    updates = 2 * 2 * len(rows)  # epochs × minibatches, before and after
    assert counts.trainer["optimizer.0.step"].item() == updates


def test_epsilon_falls_and_then_stays() -> None:
    config = PQNConfig(total_steps=1000)
    found = [config.epsilon_at(step) for step in (0, 50, 100, 1000, 5000)]
    assert found == pytest.approx([1.0, 0.5005, 0.001, 0.001, 0.001])
    assert [config.learning_rate_at(step) for step in (0, 999)] == [2.5e-4, 2.5e-4]


def test_evaluations_are_greedy_and_are_the_score(tmp_path: Path) -> None:
    run = train(SMALL, tmp_path / "during", evaluate_every=50, evaluation_games=4)
    (during,) = {
        json.loads(file.read_text())["protocol"]["actions"]
        for file in (run / "evaluations").glob("training-*.json")
    }
    assert during == "greedy"
    run = train(SMALL, tmp_path / "run")
    assert evaluate(run, games=4, actions="sampled")["protocol"]["actions"] == "sampled"
    assert score(RunDirectory.open(run)) is None
    mean = evaluate(run, games=8)["summary"]["mean"]
    found = score(RunDirectory.open(run))
    assert found is not None
    assert (found.games, found.mean) == (8, mean)
    assert found.result["protocol"]["actions"] == "greedy"


def test_a_run_leaves_what_comes_after_it_needs(tmp_path: Path) -> None:
    run = train(SMALL, tmp_path / "run", total_steps=400)
    rows = read_metrics(run / "metrics.jsonl")
    for name in (
        "charts/episode_return", "charts/steps_per_second", "loss/value", "value/q_mean",
        "value/explained_variance", "policy/epsilon", "optimizer/gradient_norm",
        "optimizer/learning_rate", "time/acting", "time/learning", "time/environment",
    ):  # fmt: skip
        assert np.isfinite(rows[-1][name]), name
    assert max(row["value/q_deviation"] for row in rows) < 1e-4
    policy = fwp_rl.load_policy(run)
    assert isinstance(policy, QNetwork)
    assert policy.action_rule == Greedy()


def test_an_encoder_without_layer_norm_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(SMALL, tmp_path / "a")
    assert "layer_norm" not in capsys.readouterr().out
    train(SMALL, tmp_path / "b", encoder=MLPConfig(hidden_sizes=(16,)))
    assert "WARNING: encoder.layer_norm is off" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"minibatches": 3}, "minibatches: got 3, expected a divisor of num_envs = 4"),
        ({"burn_in": 8}, "burn_in: got 8, expected less than rollout_length = 8"),
        ({"exploration_fraction": 0}, "exploration_fraction: got 0, expected more than 0 to 1"),
        ({"epsilon_end": 2.0}, "epsilon_end: got 2.0, expected 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        dataclasses.replace(SMALL, **changes)


def test_the_preset_for_atari_is_the_agents_default() -> None:
    """The authors' settings are written once in the agent and once, to be read, in the preset."""
    preset = agents.load_preset("pqn_atari")
    assert preset == PQNConfig(encoder=NatureCNNConfig(layer_norm=True))


@pytest.mark.slow
@pytest.mark.parametrize("core", ["delta_net", "feedforward"])
def test_memory_solves_recall_and_no_memory_cannot(core: str, tmp_path: Path) -> None:
    config = agents.load_preset("pqn_recall")
    assert isinstance(config, PQNConfig)
    memory = core == "delta_net"
    run = train(
        config,
        tmp_path / "run",
        core=config.core if memory else CORES[core](),
        total_steps=40_000 if memory else 20_000,
        evaluation_games=0,
        plain=True,
    )
    result = evaluate(run, games=512, output=tmp_path / "recall.json")
    low, high = result["summary"]["interval"]
    if memory:
        assert low > 0.9
    else:
        assert high < 0.35  # chance is 0.25
