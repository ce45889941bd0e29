"""A real grid on a small task, with everything that may happen to it."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fwp_rl import agents  # noqa: F401  # fills the registry of agents
from fwp_rl.ablation.grid import load_grid
from fwp_rl.ablation.runner import wandb_environment, worker_environment
from fwp_rl.runs.metrics import read_metrics
from fwp_rl.training.session import TrainingSession


def write_grid(path: Path, *, total_steps: int) -> Path:
    overrides = {"total_steps": total_steps, "evaluation_games": 10, "checkpoint_minutes": 0.01}
    sizes = {"num_envs": 8, "rollout_length": 16}
    axes = {"core": ["feedforward", "gru"], "seed": [1, 2]}
    grid = {"preset": "recall", "overrides": overrides | sizes, "axes": axes}
    path.write_text(yaml.safe_dump(grid, sort_keys=False))
    return path


def start(grid: Path, output: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "fwp_rl", "ablate", str(grid), "--jobs", "2", "--plain"]
    return subprocess.Popen(
        [*command, "--output", str(output), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ledger(output: Path) -> list[dict]:
    file = output / "ledger.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def events(output: Path, cell: str) -> list[str]:
    return [row["event"] for row in ledger(output) if row["cell"] == cell]


def wait_for(condition, runner: subprocess.Popen) -> None:
    """As long as it takes, which pytest limits; a runner that ends too early is told at once."""
    while not condition():
        assert runner.poll() is None, runner.communicate()[0]
        time.sleep(0.05)


def steps(output: Path, cell: str) -> list[int]:
    metrics = output / cell / "metrics.jsonl"
    return [row["step"] for row in read_metrics(metrics)]


@pytest.mark.slow
def test_killed_and_stopped_workers_are_resumed(tmp_path):
    """On cells that no machine finishes meanwhile: whoever is first, two are at work throughout."""
    grid, output = write_grid(tmp_path / "endless.yaml", total_steps=10**9), tmp_path / "out"
    running = ("feedforward-s1", "feedforward-s2")
    first = start(grid, output)
    try:
        wait_for(lambda: all(steps(output, cell) for cell in running), first)
        for cell, number in zip(running, (signal.SIGKILL, signal.SIGSEGV), strict=True):
            os.kill(next(row["pid"] for row in ledger(output) if row["cell"] == cell), number)
        resumed = ["started", "crashed", "resumed"]
        wait_for(lambda: all(events(output, cell) == resumed for cell in running), first)
        second = start(grid, output)
        assert "another fwp-rl ablate" in second.communicate()[0]
        assert second.returncode == 1
        first.send_signal(signal.SIGINT)
        said = first.communicate()[0]
    finally:  # a runner that is killed leaves its workers behind, and these never end by themselves
        first.terminate()
        first.wait()
    assert first.returncode == 130, said
    assert "feedforward-s1: killed by signal 9 (SIGKILL): out of memory?; trying once" in said
    crashed = {row["exit"]: row for row in ledger(output) if row["event"] == "crashed"}
    assert crashed[-9]["how"] == "killed by signal 9 (SIGKILL): out of memory?"
    trace = output / running[1] / "crash.log"
    assert crashed[-11]["how"] == f"killed by signal 11 (SIGSEGV); {trace} says where"
    for row in crashed.values():
        assert row["said"], "the last lines of its log"
        assert row["said"][-1] in said
    assert "Go on with the same command" in said
    assert {tuple(events(output, cell)) for cell in running} == {(*resumed, "stopped")}
    assert {row["cell"] for row in ledger(output)} == set(running)
    for cell in running:
        assert steps(output, cell) == sorted(set(steps(output, cell)))


@pytest.mark.slow
def test_a_worker_that_does_not_stop_is_killed(tmp_path):
    """One that is frozen takes no signal but the last."""
    grid, output = write_grid(tmp_path / "endless.yaml", total_steps=10**9), tmp_path / "out"
    runner = start(grid, output, "--jobs", "1", "--stop-seconds", "0.1")
    frozen = None
    try:
        wait_for(lambda: events(output, "feedforward-s1"), runner)
        frozen = ledger(output)[0]["pid"]
        os.kill(frozen, signal.SIGSTOP)
        runner.send_signal(signal.SIGUSR2)  # a cluster's warning
        said = runner.communicate()[0]
        assert runner.returncode == 128 + signal.SIGUSR2, said
        assert f"feedforward-s1: process {frozen} did not stop within 0.1 s and was killed" in said
        assert events(output, "feedforward-s1") == ["started", "killed"]
        with pytest.raises(ProcessLookupError):
            os.kill(frozen, 0)
    finally:
        runner.kill()
        if frozen is not None:
            with suppress(ProcessLookupError):
                os.kill(frozen, signal.SIGKILL)


@pytest.mark.slow
def test_half_done_cells_are_finished_and_one_that_cannot_begin_has_failed(tmp_path, monkeypatch):
    grid, output = write_grid(tmp_path / "tiny.yaml", total_steps=2_000), tmp_path / "out"
    half_done, blocked = "gru-s1", "gru-s2"
    (output / blocked).mkdir(parents=True)
    (output / blocked / "thesis.txt").touch()  # in the way: this cell always crashes
    cell = next(cell for cell in load_grid(grid).cells if cell.name == half_done)
    stop_after(3, monkeypatch)
    # begun for fewer games than the grid asks for by now
    begun = replace(cell.config, evaluation_games=3, run_dir=str(output / half_done), plain=True)
    with pytest.raises(KeyboardInterrupt):
        begun.train()
    assert 0 < steps(output, half_done)[-1] < 2_000
    (output / half_done / "status.json").write_text("{")
    runner = start(grid, output)
    said = runner.communicate()[0]
    assert runner.returncode == 1, said
    assert "failed: gru-s2; the same command tries again" in said
    assert "is not empty" in (output / "logs" / "gru-s2.log").read_text()
    assert "is not empty (it holds thesis.txt)" in said, "the last line of its log"
    assert events(output, blocked) == ["started", "crashed", "started", "failed"]
    assert events(output, half_done) == ["resumed", "finished"]
    for cell in ("feedforward-s1", "feedforward-s2", half_done):
        assert events(output, cell)[-1] == "finished"
        assert steps(output, cell) == sorted(set(steps(output, cell))), "no step twice"
        assert steps(output, cell)[-1] >= 2_000
    finished = [row for row in ledger(output) if row["event"] == "finished"]
    assert all(row["games"] >= 10 and row["step"] >= 2_000 for row in finished)


def stop_after(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C would, once a training has logged so many rows."""
    log, count = TrainingSession.log, itertools.count(1)

    def interrupted(self, *arguments):
        log(self, *arguments)
        if next(count) == rows:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingSession, "log", interrupted)


def test_workers_get_their_share_of_the_cores():
    environment = worker_environment(3)
    assert environment["OMP_NUM_THREADS"] == environment["NUMBA_NUM_THREADS"] == "3"
    assert environment["FWP_RL_CORES"] == "3"
    assert environment["PATH"] == os.environ["PATH"]


def test_weights_and_biases_hears_what_a_cell_is(tmp_path, monkeypatch):
    for name in ("WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "WANDB_TAGS"):
        monkeypatch.delenv(name, raising=False)
    grid = load_grid(write_grid(tmp_path / "mine.yaml", total_steps=100))
    asked = [wandb_environment(grid, cell) for cell in grid.cells]
    assert {each["WANDB_RUN_GROUP"] for each in asked} == {"mine"}
    assert [each["WANDB_JOB_TYPE"] for each in asked] == ["feedforward"] * 2 + ["gru"] * 2
    assert asked[-1]["WANDB_TAGS"] == "core=gru,seed=2"
    long = replace(grid.cells[0], labels={"task": "a, b" + 99 * "x"})
    (tag,) = wandb_environment(grid, long)["WANDB_TAGS"].split(",")
    assert len(tag) == 64, "which is all that it takes"
    monkeypatch.setenv("WANDB_RUN_GROUP", "the user's own")
    assert "WANDB_RUN_GROUP" not in wandb_environment(grid, grid.cells[0])
