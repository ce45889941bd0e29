"""IMPALA: its loss against a slow oracle, its runs, and the papers' networks."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fwp_rl
from fwp_rl import agents
from fwp_rl.agents import impala
from fwp_rl.agents.impala import IMPALAConfig, impala_loss
from fwp_rl.config import ConfigError
from fwp_rl.cores import CORES
from fwp_rl.cores.rnn import GRUConfig
from fwp_rl.envs.toy import RecallConfig, ScriptedConfig, ScriptedEpisode
from fwp_rl.evaluation import evaluate
from fwp_rl.models.encoders import MLPConfig
from fwp_rl.models.policy import Policy
from fwp_rl.rl.actors import ActorsConfig
from fwp_rl.rl.collector import Actor, Collector
from fwp_rl.rl.replay import replay
from fwp_rl.runs.metrics import read_metrics
from fwp_rl.types import Rollout

SMALL = IMPALAConfig(
    env=RecallConfig(),
    encoder=MLPConfig(hidden_sizes=(16,)),
    core=GRUConfig(hidden_size=16),
    actors=ActorsConfig(kind="inline"),
    num_envs=6,
    batch_size=4,
    unroll_length=8,
    total_steps=300,
    evaluation_games=0,
    plain=True,
)
SCRIPT = ScriptedConfig(
    columns=(
        (ScriptedEpisode(rewards=(1.0, 0.0, -2.0)), ScriptedEpisode(rewards=(0.5,) * 4)),
        (ScriptedEpisode(rewards=(1.0,) * 5, end="truncated"),),
    )
)
LENGTH = 14


def policy_and_rollout(config: IMPALAConfig) -> tuple[Policy, Rollout]:
    """A rollout of two columns, and a policy that has moved on since."""
    torch.manual_seed(0)
    policy = Policy(config, config.env.spec())
    env = config.env.make(2, range(2))
    actor = Actor(policy, env, generator=torch.Generator().manual_seed(0))
    rollout, _ = Collector(actor, config.unroll_length).collect()
    with torch.no_grad():
        policy.policy_head.weight.add_(0.5 * torch.randn(policy.policy_head.weight.shape))
    return policy, rollout


def oracle(config: IMPALAConfig, policy: Policy, rollout: Rollout) -> float:
    """The loss of the module's docstring with V-trace summed forward, one step at a time."""
    start = config.burn_in
    with torch.no_grad():
        output = replay(policy, rollout, start=start, stop=LENGTH + 1)
    log_pi = output.logits.double().log_softmax(-1).numpy()
    log_mu = rollout.behaviour_logits[start:].double().log_softmax(-1).numpy()
    v = output.value.double().numpy()
    mask, ended = rollout.mask[start:].numpy(), rollout.terminated[start:].numpy()
    reward = rollout.reward[start:].clamp(-1, 1).double().numpy()
    action = rollout.action[start:].numpy()
    total, count = 0.0, 0
    for b in range(2):
        steps = LENGTH - start
        played = [log_pi[t, b, action[t, b]] for t in range(steps)]
        rho = [
            min(1.0, float(np.exp(played[t] - log_mu[t, b, action[t, b]]))) for t in range(steps)
        ]
        target = v[:, b].copy()
        for s in range(steps):
            weight = 1.0
            for t in range(s, steps):
                if not mask[t, b]:
                    break
                following = 0.0 if ended[t, b] else v[t + 1, b]
                target[s] += (
                    weight * rho[t] * (reward[t, b] + config.discount * following - v[t, b])
                )
                weight *= config.discount * rho[t]
                if ended[t, b]:
                    break
        for s in range(steps):
            if not mask[s, b]:
                continue
            following = 0.0 if ended[s, b] else target[s + 1]
            advantage = rho[s] * (reward[s, b] + config.discount * following - v[s, b])
            p = np.exp(log_pi[s, b])
            total -= advantage * played[s]
            total += config.value_coefficient * (v[s, b] - target[s]) ** 2 / 2
            total += config.entropy_coefficient * float((p * log_pi[s, b]).sum())
            count += 1
    return total if config.reduction == "sum" else total / count


@pytest.mark.parametrize("burn_in", [0, 3])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_loss_equals_the_paper_step_by_step(burn_in: int, reduction: Any) -> None:
    config = dataclasses.replace(
        SMALL, env=SCRIPT, unroll_length=LENGTH, burn_in=burn_in, reduction=reduction
    )
    policy, rollout = policy_and_rollout(config)
    losses = impala_loss(config, policy, rollout)
    count = rollout.mask[burn_in:].sum()
    loss = losses.reduce(torch.tensor(1) if reduction == "sum" else count)
    assert loss.item() == pytest.approx(oracle(config, policy, rollout), rel=1e-4)
    assert 0 < losses.metrics(count)["policy/clip_fraction"] < 1


def test_what_stands_at_a_dummy_step_does_not_matter() -> None:
    config = dataclasses.replace(SMALL, env=SCRIPT, unroll_length=LENGTH)
    policy, rollout = policy_and_rollout(config)
    loss = impala_loss(config, policy, rollout).reduce(torch.tensor(1))
    assert (~rollout.mask).any()
    rollout.reward[~rollout.mask] = torch.nan
    rollout.behaviour_logits[~rollout.mask] = 1e4
    again = impala_loss(config, policy, rollout).reduce(torch.tensor(1))
    assert again.item() == loss.item()
    again.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.parameters())


def train(path: Path, **changes: Any) -> Path:
    return impala.train(dataclasses.replace(SMALL, run_dir=str(path), **changes))


def same(a: Path, b: Path) -> bool:
    one, other = (fwp_rl.load_policy(run).state_dict() for run in (a, b))
    return all(torch.equal(one[name], other[name]) for name in one)


def test_inline_one_seed_gives_one_result_and_another_seed_another(tmp_path: Path) -> None:
    first = train(tmp_path / "a")
    assert same(first, train(tmp_path / "b"))
    assert not same(first, train(tmp_path / "c", seed=2))


@pytest.mark.parametrize("kind", ["inline", "threads"])
@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_a_run_leaves_what_comes_after_it_needs(kind: Any, optimizer: Any, tmp_path: Path) -> None:
    run = train(
        tmp_path / "run",
        actors=ActorsConfig(kind=kind),
        optimizer=optimizer,
        evaluation_games=8,
        num_envs=8,
    )
    rows = read_metrics(run / "metrics.jsonl")
    for name in (
        "charts/steps_per_second", "loss/policy", "loss/value", "policy/entropy",
        "policy/kl", "policy/lag_mean", "policy/lag_max", "policy/ratio_deviation",
        "policy/clip_fraction", "optimizer/gradient_norm",
        "time/acting", "time/environment", "time/actor_waiting", "time/waiting", "time/learning",
    ):  # fmt: skip
        assert np.isfinite(rows[-1][name]), name
    if kind == "inline":  # one unroll is one batch, so that nothing is ever late
        # of a game of every environment: an actor in a thread may not have come that far
        assert np.isfinite(rows[-1]["charts/episode_return"])
        assert max(row["policy/lag_max"] for row in rows) == 0
        assert max(row["policy/ratio_deviation"] for row in rows) < 1e-4
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert not (run / "evaluations").exists()  # training ends with training


def test_a_resumed_run_continues(tmp_path: Path) -> None:
    run = train(tmp_path / "run")
    before = read_metrics(run / "metrics.jsonl")
    longer = dataclasses.replace(SMALL, run_dir=str(run), total_steps=600)
    impala.train(longer, resume=run)
    rows = read_metrics(run / "metrics.jsonl")
    assert rows[: len(before)] == before
    assert rows[-1]["step"] >= 600


PLANTED = """
import itertools
from fwp_rl.envs.toy import RecallEnv
play, steps = RecallEnv.step, itertools.count()
def step(self, action):
    if next(steps) > 400:
        raise ZeroDivisionError("planted")
    return play(self, action)
RecallEnv.step = step
from fwp_rl.agents.impala import IMPALAConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.models.encoders import MLPConfig
IMPALAConfig(env=RecallConfig(), encoder=MLPConfig(), num_envs=4, batch_size=2, unroll_length=8,
             plain=True, run_dir="run").train()
"""


def test_an_actor_that_fails_ends_the_run_and_keeps_what_was_learned(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PLANTED]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "ZeroDivisionError: planted" in ended.stderr
    assert "This happened in actor-" in ended.stderr
    assert json.loads((tmp_path / "run/status.json").read_text())["state"] == "failed"
    steps = [int(p.name.removeprefix("step_")) for p in (tmp_path / "run/checkpoints").iterdir()]
    assert max(steps) > 0


def test_bad_configs_are_explained() -> None:
    with pytest.raises(ConfigError, match="expected a divisor of num_envs = 7"):
        dataclasses.replace(SMALL, num_envs=7)
    with pytest.raises(ConfigError, match="expected less than unroll_length = 8"):
        dataclasses.replace(SMALL, burn_in=8)


@pytest.mark.parametrize(
    ("core", "total_18", "total_6"),
    [
        ("feedforward", 1_094_134, 1_091_038),
        ("lstm", 1_621_475, 1_618_391),
        ("linear_transformer", 1_520_227, 1_518_679),
        ("delta_net", 1_521_251, 1_519_703),
        ("recurrent_delta_net", 1_546_083, 1_544_535),
        ("delta_rnn", 1_587_811, 1_586_263),
    ],
)
def test_the_papers_networks_have_the_papers_sizes(core: str, total_18: int, total_6: int) -> None:
    preset = agents.load_preset("impala_rfwp")
    config = dataclasses.replace(preset, core=CORES[core]())
    spec = config.env.spec()
    for num_actions, total in ((18, total_18), (6, total_6)):
        policy = Policy(config, dataclasses.replace(spec, num_actions=num_actions))
        assert sum(p.numel() for p in policy.parameters()) == total


@pytest.mark.slow
@pytest.mark.parametrize("core", ["delta_net", "feedforward"])
def test_memory_solves_recall_and_no_memory_cannot(core: str, tmp_path: Path) -> None:
    preset = agents.load_preset("recall")
    sizes = {"layers": 1, "hidden_size": 64, "heads": 2, "feedforward_size": 128}
    config = IMPALAConfig(
        env=preset.env,
        encoder=preset.encoder,
        core=CORES[core](**(sizes if core == "delta_net" else {})),
        actors=ActorsConfig(kind="inline", count=1),
        num_envs=32,
        unroll_length=32,
        batch_size=8,
        optimizer="adam",
        learning_rate=1e-3,
        optimizer_epsilon=1e-5,
        reduction="mean",
        max_gradient_norm=0.5,
        total_steps=150_000,
        evaluation_games=0,
        video=False,
        plain=True,
        run_dir=str(tmp_path / "run"),
    )
    low, high = evaluate(config.train(), games=512)["summary"]["interval"]
    if core == "feedforward":
        assert high < 0.35  # chance is 0.25
    else:
        assert low > 0.9
