"""Code execution and ListOps are learned, in small and by their presets; and dropout in a run."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from fwp_rl.agents.supervised import SupervisedConfig, train
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.runs.checkpoint import newest_good
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.presets import load_preset
from fwp_rl.runs.results import task_result
from fwp_rl.tasks.code_execution import CodeExecutionConfig
from fwp_rl.tasks.list_ops import ListOpsConfig

TINY = DeltaNetConfig(layers=1, hidden_size=8, heads=2, feedforward_size=8, dropout=0.3)
SMALL = DeltaNetConfig(layers=2, hidden_size=32, heads=2, feedforward_size=64)


def config(folder: Path, **changes: Any) -> SupervisedConfig:
    base = SupervisedConfig(
        task=ListOpsConfig(depth=2, train_size=50, validation_size=20, test_size=20),
        core=TINY,
        total_steps=12,
        batch_size=8,
        evaluate_every=5,
        run_dir=str(folder),
        plain=True,
        device="cpu",
    )
    return dataclasses.replace(base, **changes)


def weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = newest_good(run / "checkpoints")
    assert checkpoint is not None
    return checkpoint.policy


def reached(run: Path, measure: str) -> float:
    """What the run's best weights reached on the test split."""
    found = task_result(RunDirectory.open(run))
    assert found is not None
    value = found.test[measure]
    assert value is not None
    return value


def test_with_dropout_threads_evaluations_and_a_resume_change_nothing(tmp_path: Path) -> None:
    one = train(config(tmp_path / "one", learner_threads=1))
    two = train(config(tmp_path / "two", learner_threads=2, evaluate_every=3))
    half = train(config(tmp_path / "half", total_steps=6))
    again = train(config(half), resume=half)
    for run in (two, again):
        for name, value in weights(run).items():
            assert torch.equal(value, weights(one)[name]), name
    without = dataclasses.replace(TINY, dropout=0.0)
    other = train(config(tmp_path / "other", core=without))
    assert not torch.equal(weights(other)["head.weight"], weights(one)["head.weight"])


@pytest.mark.slow
def test_short_programs_are_executed(tmp_path: Path) -> None:
    task = CodeExecutionConfig(variables=2, statements=5, train_size=4000, validation_size=200)
    run = train(
        config(
            tmp_path / "run",
            task=task,
            core=SMALL,
            total_steps=1500,
            batch_size=32,
            learning_rate=3e-3,
            evaluate_every=100,
            stop_at=0.9,
        )
    )
    assert reached(run, "sequence_accuracy") > 0.85
    assert reached(run, "print_accuracy") > 0.9


@pytest.mark.slow
def test_shallow_expressions_are_evaluated(tmp_path: Path) -> None:
    run = train(
        config(
            tmp_path / "run",
            task=ListOpsConfig(depth=2, validation_size=200),
            core=SMALL,
            total_steps=1500,
            batch_size=32,
            learning_rate=3e-3,
            evaluate_every=100,
            stop_at=0.9,
        )
    )
    assert reached(run, "accuracy") > 0.85


@pytest.mark.long
@pytest.mark.parametrize(
    ("preset", "measure", "least"),
    [("code_execution_cpu", "print_accuracy", 0.9), ("list_ops_cpu", "accuracy", 0.8)],
)
def test_the_presets_for_two_cores_learn(
    preset: str, measure: str, least: float, tmp_path: Path
) -> None:
    loaded = load_preset(f"tasks/{preset}")
    run = train(dataclasses.replace(loaded, run_dir=str(tmp_path / "run"), plain=True))
    assert reached(run, measure) > least
