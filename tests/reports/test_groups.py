"""What a report compares: labels in few words that still tell every experiment apart."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwp_rl import agents
from fwp_rl.config import ConfigError
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.rnn import LSTMConfig
from fwp_rl.reports.comparison import compare
from fwp_rl.reports.groups import group
from fwp_rl.reports.records import read_records
from fwp_rl.runs.config import RunConfig
from fwp_rl.runs.presets import experiment

from .conftest import MakeRun
from .test_page import make_ablation


@dataclass
class Run:
    config: RunConfig
    task: str = "recall"
    axes: Mapping[str, str] = field(default_factory=dict)
    given: str | None = None


PPO, IMPALA = agents.load_preset("recall"), agents.load_preset("impala_cpu")
CORES = [LSTMConfig(), LSTMConfig(hidden_size=64), DeltaNetConfig(), DeltaNetConfig(heads=8)]
configs = st.builds(
    lambda config, core, steps, seed: replace(config, core=core, total_steps=steps, seed=seed),
    st.sampled_from([PPO, replace(PPO, discount=0.5), IMPALA, replace(IMPALA, env=PPO.env)]),
    st.sampled_from(CORES),
    st.sampled_from([1000, 5000]),
    st.integers(1, 3),
)


@given(st.lists(st.builds(Run, configs, st.sampled_from(["a", "b"])), min_size=1, max_size=6))
def test_runs_share_a_label_just_where_they_are_one_experiment(runs: list[Run]) -> None:
    labels, notes = group(runs)
    assert notes == []
    kinds = [experiment(run.config, without=("seed",)) for run in runs]
    for a, one, its in zip(runs, labels, kinds, strict=True):
        for b, other, theirs in zip(runs, labels, kinds, strict=True):
            if a.task == b.task:
                assert (one == other) == (its == theirs)


def test_a_label_names_no_more_fields_than_it_needs() -> None:
    runs = [
        Run(PPO),
        Run(replace(PPO, core=LSTMConfig(), total_steps=7)),
        Run(replace(IMPALA, env=PPO.env, total_steps=9)),
        Run(replace(PPO, total_steps=7, discount=0.5)),
    ]
    assert group(runs)[0] == [
        *("delta_net", "lstm", "delta_net (impala)", "delta_net (discount 0.5)")
    ], "what most have needs no words"
    runs += [Run(replace(PPO, total_steps=1000))]
    assert [label for label in group(runs)[0] if "total_steps" in label] == [
        *("delta_net (total_steps 100,000)", "delta_net (total_steps 1,000)")
    ], "of those alone that nothing else tells apart"
    labels, _ = group([Run(replace(PPO, total_steps=steps)) for steps in (200_000, 1000)])
    assert labels == ["delta_net (total_steps 200,000)", "delta_net (total_steps 1,000)"]


def test_runs_are_grouped_by_the_fields_that_are_named() -> None:
    cores = [DeltaNetConfig(heads=2), DeltaNetConfig(heads=4), LSTMConfig()]
    runs = [Run(replace(PPO, core=core, discount=0.9 + 0.01 * i)) for i, core in enumerate(cores)]
    assert group(runs, ["core"])[0] == ["delta_net", "delta_net", "lstm"]
    assert group(runs, ["core", "core.heads"])[0] == [
        "delta_net, heads 2",
        "delta_net, heads 4",
        "lstm",
    ]
    assert group(runs, ["core", "agent"])[0] == ["delta_net", "delta_net", "lstm"], "agents agree"
    assert group(runs, ["agent"])[0] == ["ppo"] * 3
    assert group(runs, ["device", "core"])[0] == ["delta_net", "delta_net", "lstm"]
    for run, name in zip(runs, ("a", "a", "b"), strict=True):
        run.given = name
    assert group(runs, ["core"])[0] == ["a", "a", "b"], "within a name, cores agree"
    assert group(runs, ["core.heads"])[0] == ["a, heads 2", "a, heads 4", "b"]


def test_what_is_pooled_is_said() -> None:
    runs = [
        Run(replace(PPO, discount=discount, seed=seed))
        for discount in (0.9, 0.99)
        for seed in (1, 2)
    ]
    (note,) = group(runs, ["core"])[1]
    assert "delta_net on recall in discount" in note
    assert group(runs[:2], ["core"])[1] == []


def test_a_field_that_is_in_no_config_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--by: got 'core.head', .* Did you mean 'core.heads'\?"):
        group([Run(PPO)], ["core.head"])


def test_an_ablations_axis_groups_runs(make_run: MakeRun, tmp_path: Path) -> None:
    runs = {make_run(seed=s, folder=tmp_path / "g"): {"size": f"s{s % 2}"} for s in (1, 2, 3)}
    records = read_records([make_ablation(tmp_path / "g", runs)], by=["size"])
    assert [run.label for run in records.runs] == ["size s1", "size s0", "size s1"]


def test_a_name_before_a_path_is_its_label(make_run: MakeRun, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "x=y"
    for folder, core in ((ours, "delta_net"), (theirs, "lstm")):
        for seed in (1, 2):
            make_run(core, seed=seed, folder=folder)
    assert read_records([f"new={ours}", f"old core={theirs}"]).labels == ["new", "old core"]
    assert read_records([f"new={ours}", theirs]).labels == ["new", "lstm"]
    together = read_records([f"all={ours}", f"all={theirs}"])
    assert together.labels == ["all (delta_net)", "all (lstm)"], "no experiments are mixed unasked"


def test_runs_of_one_seed_are_not_two_seeds(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(seed=1).rename(tmp_path / "again")
    make_run(seed=1)
    notes = compare(read_records([tmp_path])).notes
    assert any("delta_net on Catch-v0, seed 1" in note for note in notes)


def test_a_game_is_one_task_however_a_grid_spells_it(make_run: MakeRun, tmp_path: Path) -> None:
    cells = {}
    for seed, name in enumerate(["breakout", "Breakout-v5", "ALE/Breakout-v5", "other"]):
        run = make_run(task="Breakout", seed=seed, folder=tmp_path / "g")
        cells[run] = {"task": name, "seed": str(seed)}
    make_run(task="Breakout", seed=9, folder=tmp_path / "alone")
    records = read_records([make_ablation(tmp_path / "g", cells), tmp_path / "alone"])
    assert records.tasks == ["Breakout", "other"]
