"""Supervised training on a sequence task: what it learns, how it ends, what a stop and a resume
change (nothing), and what it leaves in the run directory."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from fwp_rl.agents.supervised import SupervisedConfig
from fwp_rl.config import ConfigError
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.rnn import LSTMConfig
from fwp_rl.experiment import train
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.metrics import read_metrics
from fwp_rl.runs.presets import config_from_dict, config_to_dict, load_preset
from fwp_rl.runs.results import score, task_result
from fwp_rl.runs.resuming import is_complete
from fwp_rl.runs.views import meaning
from fwp_rl.tasks import TASKS, Split, Task, TaskBatch, TaskConfig
from fwp_rl.tasks.symbols import SymbolTask

SYMBOLS, STEPS = 4, 6


@dataclass(frozen=True, kw_only=True)
class EchoConfig(TaskConfig):
    """Say the symbol before the last one."""

    carried: bool = False
    """The sequences go on from batch to batch."""

    def open(self, seed: int, artifacts: Mapping[str, bytes] | None = None) -> Task:
        return Echo(seed, self.carried, artifacts)


class Echo(SymbolTask):
    inputs = outputs = SYMBOLS

    def __init__(self, seed: int, carried: bool, artifacts: Mapping[str, bytes] | None) -> None:
        super().__init__(seed)
        self.carries_state = carried
        self.alphabet = b"abcd" if artifacts is None else artifacts["alphabet"]

    def artifacts(self) -> dict[str, bytes]:
        return {"alphabet": self.alphabet}

    def batch(self, step: int, size: int) -> TaskBatch:
        return self._made(
            self.draws("train", step), size, first=step == 0 or not self.carries_state
        )

    def batches(self, split: Split) -> Iterator[TaskBatch]:
        yield self._made(self.draws(split), 64, first=True)

    @staticmethod
    def _made(draws: np.random.Generator, size: int, *, first: bool) -> TaskBatch:
        symbols = torch.from_numpy(draws.integers(SYMBOLS, size=(STEPS, size)))
        mask = torch.ones(STEPS, size, dtype=torch.bool)
        mask[0] = False
        reset = torch.zeros(STEPS, size, dtype=torch.bool)
        reset[0] = first
        return TaskBatch(input=symbols, target=symbols.roll(1, 0), mask=mask, reset=reset)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    TASKS.register("echo")(EchoConfig)
    yield
    del TASKS._classes["echo"]


def config(folder: Path, **changes: Any) -> SupervisedConfig:
    core = DeltaNetConfig(layers=1, hidden_size=16, heads=2, feedforward_size=16)
    base = SupervisedConfig(
        task=EchoConfig(),
        core=core,
        total_steps=40,
        batch_size=8,
        learning_rate=1e-2,
        evaluate_every=10,
        run_dir=str(folder),
        plain=True,
        device="cpu",
    )
    return replace(base, **changes)


def weights(run: Path) -> dict[str, Tensor]:
    from fwp_rl.runs.checkpoint import newest_good

    checkpoint = newest_good(run / "checkpoints")
    assert checkpoint is not None
    return checkpoint.policy


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_says_how_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(config(tmp_path / "run", total_steps=400, stop_at=0.99, evaluate_every=50))
    result = json.loads((run / "result.json").read_text())
    assert result["stopped"] == "solved"
    assert result["measure"] == "accuracy"
    assert result["score"] == result["test"]["accuracy"] >= 0.95
    assert result["validation"]["accuracy"] >= 0.99
    assert result["steps"] < 400
    assert result["size"]["core_inputs"] == 64
    assert (run / "task" / "alphabet").read_bytes() == b"abcd"
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "accuracy" in printed
    assert "as good as stop_at asks for" in printed
    curves = EventAccumulator(str(run)).Reload()
    assert [event.value for event in curves.Scalars("test/score")] == [
        pytest.approx(result["score"])
    ]
    known = score(RunDirectory.open(run))
    assert known is not None
    assert known.mean == result["score"]
    assert known.games is None
    rows = read_metrics(run / "metrics.jsonl")
    names = {name for row in rows for name in row} - {"step", "time"}
    assert all(map(meaning, names)), "each curve says what it means"
    losses = [row["loss/mean"] for row in rows if "loss/mean" in row]
    assert losses[0] == pytest.approx(math.log(SYMBOLS), rel=0.3)
    assert losses[-1] < 0.1


def test_it_ends_by_patience_time_or_steps(tmp_path: Path) -> None:
    stuck = {"learning_rate": 1e-12, "max_gradient_norm": 1e-6}
    for name, changes, steps in (
        ("patience", {**stuck, "patience": 2, "total_steps": 1000}, 30),
        ("time", {"max_minutes": 1e-9}, 0),
        ("steps", {}, 40),
    ):
        run = train(config(tmp_path / name, **changes))
        result = task_result(RunDirectory.open(run))
        assert result is not None
        assert (result.stopped, result.steps) == (name, steps)
        assert is_complete(RunDirectory.open(run), load_preset(run / "config.yaml"))


def test_the_best_weights_are_tested_not_the_last(tmp_path: Path) -> None:
    """A learning rate that ruins what was learned: the last weights are worse than the best."""
    run = train(
        config(tmp_path / "run", total_steps=120, learning_rate=0.5, max_gradient_norm=None)
    )
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "validation/score" in row]
    best = max(rows, key=lambda row: (row["validation/score"], -row["step"]))
    result = task_result(RunDirectory.open(run))
    assert result is not None
    assert result.step == best["step"]
    assert result.validation["accuracy"] == pytest.approx(best["validation/accuracy"])


@pytest.mark.parametrize("carried", [False, True], ids=["anew", "carried"])
def test_evaluations_shards_and_threads_change_nothing_of_what_is_learned(
    tmp_path: Path, carried: bool
) -> None:
    task = EchoConfig(carried=carried)
    one = train(config(tmp_path / "one", task=task, learner_threads=1))
    two = train(config(tmp_path / "two", task=task, learner_threads=2, evaluate_every=3))
    assert same(weights(one), weights(two))
    whole = train(config(tmp_path / "whole", task=task, gradient_shards=1))
    assert not same(weights(one), weights(whole))
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, weights(one)[name], rtol=1e-3, atol=1e-4)


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    through = train(config(tmp_path / "through"))
    half = train(config(tmp_path / "half", total_steps=20))
    assert (half / "result.json").is_file()
    again = train(config(half, total_steps=40), resume=half)
    assert same(weights(through), weights(again))
    first, second = (task_result(RunDirectory.open(run)) for run in (through, again))
    assert first is not None
    assert second is not None
    assert first.test == second.test
    assert first.step == second.step


def test_what_diverges_ends_with_its_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Echo.loss

    def loss(self: Echo, model: nn.Module, batch: TaskBatch, state: Any) -> Any:
        losses, end = good(self, model, batch, state)
        self.calls = getattr(self, "calls", 0) + 1
        return (replace(losses, loss=losses.loss * math.nan) if self.calls > 40 else losses), end

    monkeypatch.setattr(Echo, "loss", loss)
    run = train(config(tmp_path / "run"))
    result = task_result(RunDirectory.open(run))
    assert result is not None
    assert result.stopped == "diverged"
    assert result.steps == 20
    assert result.score is not None


def test_any_core_and_a_round_trip_through_yaml(tmp_path: Path) -> None:
    run = train(config(tmp_path / "run", core=LSTMConfig(hidden_size=8), total_steps=2))
    loaded = load_preset(run / "config.yaml")
    assert isinstance(loaded, SupervisedConfig)
    assert config_from_dict(config_to_dict(loaded), source="again") == loaded
    with pytest.raises(ConfigError, match="task: is missing"):
        config_from_dict({"agent": "supervised"}, source="mine.yaml")
    with pytest.raises(ConfigError, match=r"task\.name: unknown task 'ecko'.*Did you mean 'echo'"):
        config_from_dict({"agent": "supervised", "task": "ecko"}, source="mine.yaml")


def test_the_learning_rate_warms_up_and_anneals(tmp_path: Path) -> None:
    base = {"learning_rate": 1e-2, "warmup_steps": 10, "total_steps": 110}
    linear, cosine, constant = (
        config(tmp_path, schedule=schedule, **base) for schedule in ("linear", "cosine", "constant")
    )
    for one in (linear, cosine, constant):
        assert one.learning_rate_at(0) == pytest.approx(1e-3)
        assert one.learning_rate_at(9) == pytest.approx(1e-2)
        assert one.learning_rate_at(10) == pytest.approx(1e-2)
    assert constant.learning_rate_at(109) == pytest.approx(1e-2)
    assert linear.learning_rate_at(60) == cosine.learning_rate_at(60) == pytest.approx(5e-3)
    assert cosine.learning_rate_at(35) > linear.learning_rate_at(35)
    assert linear.learning_rate_at(110) == cosine.learning_rate_at(110) == 0
