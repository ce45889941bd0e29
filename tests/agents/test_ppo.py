"""PPO: its loss against a slow oracle, its runs, and what its memory can learn."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import fwp_rl
from fwp_rl import agents
from fwp_rl.agents import ppo
from fwp_rl.agents.ppo import PPOConfig, ppo_loss
from fwp_rl.config import ConfigError
from fwp_rl.cores import CORES
from fwp_rl.cores.rnn import GRUConfig, LSTMConfig
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.envs.minigrid import MiniGridConfig
from fwp_rl.envs.toy import RecallConfig, ScriptedConfig, ScriptedEpisode
from fwp_rl.evaluation import evaluate
from fwp_rl.losses import normalize
from fwp_rl.models.encoders import MLPConfig
from fwp_rl.models.policy import Policy
from fwp_rl.rl.collector import Actor, Collector
from fwp_rl.runs.checkpoint import load_checkpoint
from fwp_rl.runs.directory import RunError
from fwp_rl.runs.metrics import read_metrics
from fwp_rl.types import Rollout

SMALL = PPOConfig(
    env=RecallConfig(),
    encoder=MLPConfig(hidden_sizes=(16,)),
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


def rollout_and_targets(config: PPOConfig) -> tuple[Policy, Rollout, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    policy = Policy(config, config.env.spec())
    env = config.env.make(config.num_envs, range(config.num_envs))
    actor = Actor(policy, env, generator=torch.Generator().manual_seed(0))
    rollout, _ = Collector(actor, config.rollout_length).collect()
    shape = rollout.reward.shape
    with torch.no_grad():  # away from the policy that acted, so that ratios leave the clip range
        policy.policy_head.weight.add_(0.1 * torch.randn(policy.policy_head.weight.shape))
    return policy, rollout, torch.randn(shape), torch.randn(shape)


def oracle(
    config: PPOConfig,
    logits: NDArray[Any],
    value: NDArray[Any],
    rollout: Rollout,
    target: NDArray[Any],
    advantage: NDArray[Any],
) -> float:
    """The loss of the module's docstring, one step at a time."""
    steps = [
        (t, b)
        for t in range(config.burn_in, config.rollout_length)
        for b in range(config.num_envs)
        if rollout.mask[t, b]
    ]
    kept = np.array([advantage[t, b] for t, b in steps])
    total = 0.0
    for t, b in steps:

        def probabilities(x: NDArray[Any]) -> NDArray[Any]:
            e = np.exp(x - x.max())
            return e / e.sum()

        p = probabilities(logits[t - config.burn_in, b])
        q = probabilities(rollout.behaviour_logits[t, b].double().numpy())
        action = int(rollout.action[t, b])
        ratio = p[action] / q[action]
        a = (advantage[t, b] - kept.mean()) / (kept.std() + 1e-8)
        clipped = min(max(ratio, 1 - config.clip), 1 + config.clip)
        total -= min(ratio * a, clipped * a)
        v = value[t - config.burn_in, b]
        error = (v - target[t, b]) ** 2
        if config.value_clip is not None:
            old = float(rollout.value[t, b])
            moved = old + min(max(v - old, -config.value_clip), config.value_clip)
            error = max(error, (moved - target[t, b]) ** 2)
        total += config.value_coefficient * error / 2
        total += config.entropy_coefficient * float((p * np.log(p)).sum())
    return total / len(steps)


@pytest.mark.parametrize("burn_in", [0, 3])
@pytest.mark.parametrize("value_clip", [None, 0.1])
def test_the_loss_equals_the_paper_step_by_step(burn_in: int, value_clip: float | None) -> None:
    config = dataclasses.replace(
        SMALL,
        env=SCRIPT,
        num_envs=2,
        rollout_length=14,
        burn_in=burn_in,
        value_clip=value_clip,
        entropy_coefficient=0.03,
    )
    policy, rollout, target, advantage = rollout_and_targets(config)
    counted = rollout.mask[burn_in:]
    normal = advantage.clone()
    normal[burn_in:] = normalize(advantage[burn_in:], counted)
    losses = ppo_loss(config, policy, rollout, target, normal)
    metrics = losses.metrics(counted.sum())
    output = ppo.replay(policy, rollout, start=burn_in, stop=14)
    logits, value = output.logits.detach().double().numpy(), output.value.detach().double().numpy()
    expected = oracle(config, logits, value, rollout, target.numpy(), advantage.numpy())
    assert losses.reduce(counted.sum()).item() == pytest.approx(expected, rel=1e-4)
    assert 0 < metrics["policy/clip_fraction"] < 1
    assert metrics["policy/kl"] > 0


def test_what_stands_at_a_dummy_step_does_not_matter() -> None:
    config = dataclasses.replace(SMALL, env=SCRIPT, num_envs=2, rollout_length=14, value_clip=0.1)
    policy, rollout, target, advantage = rollout_and_targets(config)
    loss = ppo_loss(config, policy, rollout, target, advantage).reduce(rollout.mask.sum())
    dummy = ~rollout.mask
    assert dummy.any()
    for poisoned in (target, advantage, rollout.value, rollout.reward):
        poisoned[dummy] = torch.nan
    rollout.behaviour_logits[dummy] = 1e4
    again = ppo_loss(config, policy, rollout, target, advantage).reduce(rollout.mask.sum())
    assert again.item() == loss.item()
    again.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.parameters())


def train(config: PPOConfig, path: Path, **changes: Any) -> Path:
    return ppo.train(dataclasses.replace(config, run_dir=str(path), **changes))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return fwp_rl.load_policy(run).state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_one_seed_gives_one_result_and_another_seed_another(tmp_path: Path) -> None:
    first = weights(train(SMALL, tmp_path / "a"))
    assert same(first, weights(train(SMALL, tmp_path / "b")))
    assert not same(first, weights(train(SMALL, tmp_path / "c", seed=2)))


def test_a_run_leaves_what_comes_after_it_needs(tmp_path: Path) -> None:
    run = train(SMALL, tmp_path / "run", evaluation_games=8, video=True, total_steps=400)
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert rows[-1]["step"] >= 100
    for name in (
        "charts/episode_return", "charts/steps_per_second", "loss/policy", "loss/value",
        "policy/entropy", "policy/kl", "policy/clip_fraction", "value/explained_variance",
        "optimizer/gradient_norm", "optimizer/learning_rate", "time/acting", "time/learning",
        "time/environment",
    ):  # fmt: skip
        assert np.isfinite(rows[-1][name]), name
    assert max(row["policy/ratio_deviation"] for row in rows) < 1e-4
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert not (run / "evaluations").exists()  # training ends with training
    assert list(run.glob("events.*"))
    policy = fwp_rl.load_policy(run / "policy")
    checkpoint = sorted((run / "checkpoints").iterdir())[-1]
    assert same(policy.state_dict(), load_checkpoint(checkpoint).policy)


def test_a_resumed_run_continues_steps_schedule_and_curve(tmp_path: Path) -> None:
    run = train(SMALL, tmp_path / "run")
    before = read_metrics(run / "metrics.jsonl")
    longer = dataclasses.replace(SMALL, run_dir=str(run), total_steps=200)
    assert ppo.train(longer, resume=run) == run
    rows = read_metrics(run / "metrics.jsonl")
    assert rows[: len(before)] == before
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    assert steps[-1] >= 200
    for earlier, row in zip(rows[len(before) - 1 :], rows[len(before) :], strict=False):
        line = SMALL.learning_rate * (1 - earlier["step"] / 200)
        assert row["optimizer/learning_rate"] == pytest.approx(line)
    assert rows[len(before)]["charts/games"] >= before[-1]["charts/games"]


def test_a_resumed_run_refuses_to_become_another_experiment(tmp_path: Path) -> None:
    run = train(SMALL, tmp_path / "run")
    status = (run / "status.json").read_text()
    for changes in ({"learning_rate": 1e-3}, {"core": LSTMConfig()}, {"seed": 5}):
        other = dataclasses.replace(SMALL, run_dir=str(run), **changes)  # type: ignore[arg-type]
        with pytest.raises(RunError, match=f"was trained with {next(iter(changes))}"):
            ppo.train(other, resume=run)
    how = {"evaluation_games": 7, "video": True, "checkpoint_minutes": 1.0, "keep_memory": False}
    ppo.train(dataclasses.replace(SMALL, **how), resume=run)  # type: ignore[arg-type]
    status = (run / "status.json").read_text()
    with pytest.raises(RunError, match="leave --run-dir out"):
        ppo.train(dataclasses.replace(SMALL, run_dir="elsewhere"), resume=run)
    with pytest.raises(RunError, match="holds a run already"):
        ppo.train(dataclasses.replace(SMALL, run_dir=str(run)))
    assert (run / "status.json").read_text() == status


def test_a_resumed_run_mends_its_policy_folder(tmp_path: Path) -> None:
    run = train(SMALL, tmp_path / "run")
    before = weights(run)
    (run / "policy" / "policy.safetensors").write_bytes(b"damaged")
    ppo.train(dataclasses.replace(SMALL, run_dir=str(run)), resume=run)
    assert same(weights(run), before)


def test_a_reached_target_kl_ends_the_epochs(tmp_path: Path) -> None:
    run = train(SMALL, tmp_path / "run", target_kl=1e-12, epochs=5)
    assert all(row["policy/epochs"] == 1 for row in read_metrics(run / "metrics.jsonl"))


def test_shards_leave_the_epochs_to_the_kl_of_the_whole_minibatch(tmp_path: Path) -> None:
    runs = {
        shards: read_metrics(
            train(
                SMALL,
                tmp_path / str(shards),
                gradient_shards=shards,
                minibatches=1,
                learning_rate=0.01,
                target_kl=1e-5,
            )
            / "metrics.jsonl"
        )
        for shards in (1, 3)
    }
    epochs = [[row["policy/epochs"] for row in rows] for rows in runs.values()]
    assert epochs[0] == epochs[1]
    assert min(epochs[0]) < SMALL.epochs
    for one, other in zip(*runs.values(), strict=True):
        for name in ("loss/policy", "loss/value", "policy/kl", "policy/clip_fraction"):
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), name


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ppo, "normalize", lambda advantage, mask: torch.full_like(advantage, torch.nan)
    )
    with pytest.raises(FloatingPointError, match="weights are untouched"):
        train(SMALL, tmp_path / "run")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "failed"
    assert all(t.isfinite().all() for t in weights(tmp_path / "run").values())


def test_a_policy_that_cannot_be_built_leaves_no_directory(tmp_path: Path) -> None:
    images_only = agents.load_preset("quickstart").encoder
    with pytest.raises(ConfigError, match="use the encoder mlp"):
        train(SMALL, tmp_path / "run", encoder=images_only)
    assert not (tmp_path / "run").exists()


def test_a_minibatch_of_one_step_has_no_advantage_to_normalise() -> None:
    for changes in ({"rollout_length": 1, "minibatches": 4}, {"burn_in": 7, "minibatches": 4}):
        with pytest.raises(ConfigError, match="minibatches: one step after burn_in"):
            dataclasses.replace(SMALL, **changes)
        dataclasses.replace(SMALL, **changes, normalize_advantages=False)
    dataclasses.replace(SMALL, rollout_length=1, minibatches=2)


IN_CI = ("delta_net", "feedforward")
"""Cores whose slow tests CI runs; by hand, with ``-m long``, all others."""


def core_marks() -> list[Any]:
    return [
        pytest.param(name, marks=pytest.mark.slow if name in IN_CI else pytest.mark.long)
        for name in CORES
    ]


@pytest.mark.parametrize("core", core_marks())
def test_memory_solves_recall_and_no_memory_cannot(core: str, tmp_path: Path) -> None:
    """With FWP_RL_OUTPUT=FOLDER the evaluation stays there, as recall-CORE.json."""
    sizes = {"layers": 1, "hidden_size": 64, "heads": 2, "feedforward_size": 128}
    if core == "srwm":  # as it is by default it takes far longer
        sizes |= {"heads": 8, "initial_scale": 8.0}
    known = {field.name for field in dataclasses.fields(CORES[core])}
    config = agents.load_preset("recall")
    assert isinstance(config, PPOConfig)
    run = train(
        config,
        tmp_path / "run",
        core=CORES[core](**{key: sizes[key] for key in sizes.keys() & known}),
        evaluation_games=0,
        plain=True,
    )
    folder = Path(os.environ.get("FWP_RL_OUTPUT", tmp_path))
    result = evaluate(run, games=512, output=folder / f"recall-{core}.json")
    low, high = result["summary"]["interval"]
    if core == "feedforward":
        assert high < 0.35  # chance is 0.25
    else:
        assert low > 0.9


@pytest.mark.long
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("task", ["Pong", "MemoryS9"])
def test_twenty_updates_of_every_core(core: str, task: str, tmp_path: Path) -> None:
    preset = "quickstart" if task == "Pong" else "minigrid_memory"
    config = agents.load_preset(preset)
    assert isinstance(config, PPOConfig)
    env = AtariConfig(game=task) if task == "Pong" else MiniGridConfig(task="MemoryS9")
    run = train(
        config,
        tmp_path / "run",
        env=env,
        core=CORES[core](),
        num_envs=8,
        rollout_length=32,
        total_steps=20 * 8 * 32,
        evaluation_games=0,
        video=False,
        plain=True,
    )
    rows = read_metrics(run / "metrics.jsonl")
    assert len(rows) >= 20  # dummy steps do not count
    for row in rows:
        assert row["policy/ratio_deviation"] < 1e-3
        for name in ("loss/policy", "loss/value", "policy/entropy", "optimizer/gradient_norm"):
            assert np.isfinite(row[name]), name
    assert all(t.isfinite().all() for t in weights(run).values())
