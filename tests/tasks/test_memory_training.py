"""What theory says of cores and tasks, seen in a few seconds of training."""

from dataclasses import replace
from pathlib import Path

import pytest

from fwp_rl.agents.supervised import SupervisedConfig
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.linear_transformer import LinearTransformerConfig
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.results import task_result
from fwp_rl.runs.schema import TaskResult
from fwp_rl.tasks import TASKS


def result_of(config: SupervisedConfig) -> TaskResult:
    result = task_result(RunDirectory(config.train()))
    assert result is not None
    return result


@pytest.mark.slow
def test_parity_takes_eigenvalues_below_zero(tmp_path: Path) -> None:
    size = {"layers": 1, "hidden_size": 32, "heads": 2, "feedforward_size": 64}
    config = SupervisedConfig(
        task=TASKS["parity"](length=12, min_length=1, asked="last", test_sequences=256),
        core=DeltaNetConfig(feature_map="identity", allow_negative_eigenvalues=True, **size),
        gradient_shards=1,
        batch_size=32,
        learning_rate=5e-3,
        total_steps=500,
        evaluate_every=50,
        stop_at=0.999,
        device="cpu",
        plain=True,
        run_dir=str(tmp_path / "delta_net"),
    )
    able = result_of(config)
    assert able.stopped == "solved"
    assert able.test["accuracy"] > 0.99
    assert able.test["long_accuracy"] > 0.9
    unable = result_of(
        replace(
            config,
            core=LinearTransformerConfig(feature_map="identity", **size),
            run_dir=str(tmp_path / "linear_transformer"),
        )
    )
    assert unable.steps == 500 > 2 * able.steps
    # a dozen bits may be learned by heart, many more may not
    assert unable.test["long_accuracy"] < 0.6


@pytest.mark.slow
def test_a_delta_net_learns_to_copy(tmp_path: Path) -> None:
    config = SupervisedConfig(
        task=TASKS["copy"](length=4, items=2, symbols=4, test_sequences=256),
        core=DeltaNetConfig(layers=2, hidden_size=32, heads=2, feedforward_size=64),
        gradient_shards=1,
        batch_size=32,
        learning_rate=5e-3,
        total_steps=1000,
        evaluate_every=50,
        stop_at=0.99,
        device="cpu",
        plain=True,
        run_dir=str(tmp_path / "delta_net"),
    )
    result = result_of(config)
    assert result.test["accuracy"] > 0.97
    assert result.test["long_accuracy"] > 0.4  # chance is 1/4
