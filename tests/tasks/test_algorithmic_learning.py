"""Code execution and ListOps are learned, in small and by their presets; and dropout in a run."""

import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from fwp_rl.agents.supervised import SupervisedConfig, train
from fwp_rl.cores import CoreConfig
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.losses import StepLosses
from fwp_rl.runs.checkpoint import newest_good
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.presets import load_preset
from fwp_rl.runs.results import task_result
from fwp_rl.tasks import TaskBatch
from fwp_rl.tasks.code_execution import CodeExecutionConfig
from fwp_rl.tasks.list_ops import ListOpsConfig
from fwp_rl.training.descent import Descent
from fwp_rl.types import State

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


def after_three_steps(core: CoreConfig, threads: int) -> list[torch.Tensor]:
    """The weights of a network that is computed in parts by so many threads."""
    torch.manual_seed(0)
    settings = config(Path("run"), core=core, learner_threads=threads, gradient_shards=4)
    task = settings.task.open(1)
    network = task.model(core)
    optimizer = torch.optim.Adam(network.parameters())
    with closing(Descent(settings, network, optimizer, cores=2)) as descend:
        for step in range(3):
            batch = task.batch(step, 8)
            state = network.initial_state(2)  # type: ignore[operator]

            def loss(part: slice, batch: TaskBatch = batch, state: State = state) -> StepLosses:
                return task.loss(network, batch.map(lambda x: x[:, part]), state)[0]

            descend(loss, columns=8, divisor=batch.mask.sum(), step=step)
    return [p.detach() for p in network.parameters()]


def test_threads_change_nothing_of_what_is_dropped() -> None:
    one, two = after_three_steps(TINY, 1), after_three_steps(TINY, 2)
    assert all(map(torch.equal, one, two))
    none = after_three_steps(dataclasses.replace(TINY, dropout=0.0), 1)
    assert not torch.equal(none[-1], one[-1])


@pytest.mark.slow
def test_a_resumed_run_drops_what_it_would_have_dropped(tmp_path: Path) -> None:
    through = train(config(tmp_path / "through"))
    half = train(config(tmp_path / "half", total_steps=6))
    again = train(config(half), resume=half)
    for name, value in weights(through).items():
        assert torch.equal(value, weights(again)[name]), name


QUICK: dict[str, Any] = {
    "core": SMALL,
    "batch_size": 32,
    "learning_rate": 3e-3,
    "gradient_shards": 1,
    "total_steps": 700,
    "evaluate_every": 50,
}


@pytest.mark.slow
def test_short_programs_are_executed(tmp_path: Path) -> None:
    """A core without memory knows a print when it sees one, and no value."""
    task = CodeExecutionConfig(variables=2, statements=5, validation_size=200)
    run = train(config(tmp_path / "run", task=task, stop_at=0.25, **QUICK))
    control = {**QUICK, "core": FeedforwardConfig(), "total_steps": 300, "evaluate_every": 300}
    without = train(config(tmp_path / "without", task=task, **control))
    assert reached(run, "sequence_accuracy") > 0.15
    assert reached(run, "print_accuracy") > max(0.3, 1.5 * reached(without, "print_accuracy"))


@pytest.mark.slow
def test_shallow_expressions_are_evaluated(tmp_path: Path) -> None:
    """To say 9 always is right for a fifth of them."""
    task = ListOpsConfig(depth=2, validation_size=200)
    run = train(config(tmp_path / "run", task=task, stop_at=0.6, **QUICK))
    assert reached(run, "accuracy") > 0.5


@pytest.mark.long
@pytest.mark.parametrize(
    ("preset", "measure", "least"),
    [("code_execution_cpu", "print_accuracy", 0.5), ("list_ops_cpu", "accuracy", 0.75)],
)
def test_the_presets_for_two_cores_learn(
    preset: str, measure: str, least: float, tmp_path: Path
) -> None:
    loaded = load_preset(f"tasks/{preset}")
    run = train(dataclasses.replace(loaded, run_dir=str(tmp_path / "run"), plain=True))
    assert reached(run, measure) > least
