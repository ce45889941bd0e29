"""What runs of all agents measure and warn of."""

import contextlib
import io
import warnings
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fwp_rl import load_policy
from fwp_rl.agents.impala import IMPALAConfig
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.agents.pqn import PQNConfig
from fwp_rl.cores import CORES, CoreConfig
from fwp_rl.envs import EnvStep
from fwp_rl.envs.toy import RecallConfig, RecallEnv
from fwp_rl.models.encoders import MLPConfig
from fwp_rl.rl.actors import ActorsConfig
from fwp_rl.rl.replay import core_metrics
from fwp_rl.runs.config import TrainConfig
from fwp_rl.runs.metrics import read_metrics
from fwp_rl.runs.views import meaning

COMMON: dict[str, Any] = {
    "env": RecallConfig(),
    "encoder": MLPConfig(hidden_sizes=(16,)),
    "num_envs": 8,
    "evaluation_games": 0,
    "plain": True,
}
AGENTS: dict[str, TrainConfig] = {
    "ppo": PPOConfig(**COMMON, rollout_length=16, minibatches=2, total_steps=250),
    "impala": IMPALAConfig(
        **COMMON,
        unroll_length=16,
        batch_size=8,
        actors=ActorsConfig(kind="inline", count=1),
        total_steps=250,
    ),
    "pqn": PQNConfig(
        **COMMON | {"encoder": MLPConfig(hidden_sizes=(16,), layer_norm=True)},
        rollout_length=16,
        minibatches=2,
        total_steps=250,
    ),
}
SAID = "an environment writes to arrays that it has handed out"


def train(agent: str, path: Path, core: CoreConfig, **changes: Any) -> list[str]:
    """What the training warned of."""
    said = io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(said):
        warnings.simplefilter("always")
        replace(AGENTS[agent], core=core, run_dir=str(path / "run"), **changes).train()
    told = [line for line in said.getvalue().splitlines() if line.startswith("WARNING")]
    return told + [str(warning.message) for warning in caught]


@pytest.mark.parametrize("agent", AGENTS)
def test_an_adapter_that_reuses_its_arrays_is_told_of(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play, buffers = RecallEnv.step, {}

    def step(self: RecallEnv, action: NDArray[Any]) -> EnvStep:
        answer = play(self, action)
        buffer = buffers.setdefault(id(self), np.empty_like(answer.obs))
        buffer[:] = answer.obs
        answer.obs = buffer
        return answer

    assert train(agent, tmp_path / "fresh", CORES["delta_net"]()) == []
    monkeypatch.setattr(RecallEnv, "step", step)
    (text,) = train(agent, tmp_path / "reused", CORES["delta_net"]())
    assert SAID in text
    measured = "value/q" if agent == "pqn" else "policy/ratio"
    assert f"{measured}_deviation is above 0.001" in text


def test_a_core_that_draws_by_design_is_not_told_of(tmp_path: Path) -> None:
    core = CORES["delta_net"](feature_map="favor", redraw_projection=True)
    assert train("ppo", tmp_path, core) == []
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert max(row["policy/ratio_deviation"] for row in rows) > 0.001


@pytest.mark.parametrize("agent", AGENTS)
def test_a_core_is_looked_into_only_for_rows_that_are_written(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def counted(records: dict[str, Any]) -> dict[str, torch.Tensor]:
        looks.append(records)
        return core_metrics(records)

    monkeypatch.setattr(f"fwp_rl.agents.{agent}.core_metrics", counted)
    train(agent, tmp_path, CORES["delta_net"](), log_every=2, total_steps=450)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert len(looks) == 2
    for row in rows[:2]:  # at the end the updates of a row that was not full may follow
        assert 0 < row["core/beta_mean"] < 1
        assert row["core/fast_weight_norm_layer2"] > 0


@pytest.mark.parametrize("agent", AGENTS)
def test_threads_that_compute_updates_change_nothing_of_what_is_learned(
    agent: str, tmp_path: Path
) -> None:
    """Not even in a run that goes on with another number of them."""
    weights = []
    for threads in (1, 3):
        run = tmp_path / str(threads)
        shards: dict[str, Any] = {"gradient_shards": 3, "learner_threads": threads}
        train(agent, run, CORES["delta_net"](), total_steps=120, **shards)
        more = replace(AGENTS[agent], core=CORES["delta_net"](), total_steps=220, **shards)
        replace(more, learner_threads=4 - threads).train(resume=run / "run")
        weights.append(load_policy(run / "run").state_dict())
    assert all(torch.equal(weights[1][name], weights[0][name]) for name in weights[0])
    rows = [read_metrics(tmp_path / str(n) / "run" / "metrics.jsonl") for n in (1, 3)]
    clocks = ("time", "steps_per_second")
    kept = [
        [{k: v for k, v in row.items() if not any(c in k for c in clocks)} for row in run]
        for run in rows
    ]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("core", ["delta_net", "gated_delta_net", "lstm"])
@pytest.mark.parametrize("agent", AGENTS)
def test_the_smallest_rollout_has_metrics_that_are_numbers(
    agent: str, core: str, tmp_path: Path
) -> None:
    smallest: dict[str, Any] = {"num_envs": 1, "total_steps": 3}
    if agent == "impala":
        smallest |= {"unroll_length": 1, "batch_size": 1}
    else:
        smallest |= {"rollout_length": 1, "minibatches": 1}
    if agent == "ppo":
        smallest |= {"normalize_advantages": False}
    heads = {"heads": 1} if "heads" in {f.name for f in fields(CORES[core])} else {}
    assert train(agent, tmp_path, CORES[core](**heads), **smallest) == []
    for row in read_metrics(tmp_path / "run" / "metrics.jsonl"):
        infinite = {name for name, x in row.items() if not np.isfinite(x)}
        assert infinite <= {"value/explained_variance"}, "one target alone does not vary"


@pytest.mark.parametrize("agent", AGENTS)
def test_every_curve_says_what_it_means(agent: str, tmp_path: Path) -> None:
    changes = {"evaluate_every": 100, "evaluation_games": 4}
    train(agent, tmp_path, CORES["delta_net"](layers=2), **changes)
    names = {name for row in read_metrics(tmp_path / "run" / "metrics.jsonl") for name in row}
    assert len(names) > 15
    assert [name for name in names - {"step", "time"} if not meaning(name)] == []
