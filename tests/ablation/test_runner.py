"""A real grid on a small task, with everything that may happen to it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from fwp_rl.ablation.runner import worker_environment

GRID = {
    "preset": "recall",
    "overrides": {
        "total_steps": 6_000,
        "evaluation_games": 10,
        "checkpoint_minutes": 0.01,
        "num_envs": 8,
        "rollout_length": 16,
    },
    "axes": {"core": ["feedforward", "gru"], "seed": [1, 2]},
}


def start(grid: Path, output: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "fwp_rl", "ablate", str(grid), "--jobs", "2", "--plain"]
    return subprocess.Popen(
        [*command, "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ledger(output: Path) -> list[dict]:
    file = output / "ledger.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def has_learned(output: Path, cell: str) -> bool:
    metrics = output / cell / "metrics.jsonl"
    return metrics.exists() and metrics.stat().st_size > 0


@pytest.mark.slow
def test_killed_stopped_continued_and_failed(tmp_path):
    grid, output = tmp_path / "tiny.yaml", tmp_path / "out"
    grid.write_text(yaml.safe_dump(GRID, sort_keys=False))
    first = start(grid, output)
    wait_for(lambda: has_learned(output, "feedforward-s1"))
    victim = next(row["pid"] for row in ledger(output) if row["cell"] == "feedforward-s1")
    os.kill(victim, signal.SIGKILL)
    wait_for(
        lambda: (
            any(row["event"] == "crashed" for row in ledger(output))
            and ledger(output)[-1]["event"] in ("started", "resumed")
        )
    )
    second = start(grid, output)
    assert "another fwp-rl ablate" in second.communicate(timeout=60)[0]
    assert second.returncode == 1
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=60)[0]
    assert first.returncode == 130, said
    assert "feedforward-s1: killed by SIGKILL; trying once more" in said
    assert "Go on with the same command" in said
    events = [row["event"] for row in ledger(output)]
    assert set(events) <= {"started", "resumed", "crashed", "stopped", "finished"}
    assert events.count("finished") < 3

    (output / "gru-s2").mkdir(exist_ok=True)
    (output / "gru-s2" / "thesis.txt").touch()  # in the way: this cell always crashes
    last = start(grid, output)
    said = last.communicate(timeout=150)[0]
    assert last.returncode == 1, said
    assert "failed: gru-s2; the same command tries again" in said
    assert "is not empty" in (output / "logs" / "gru-s2.log").read_text()
    events = [row["event"] for row in ledger(output) if row["cell"] == "gru-s2"]
    assert [event for event in events if event != "started"] == ["crashed", "failed"]
    finished = [row["cell"] for row in ledger(output) if row["event"] == "finished"]
    assert sorted(finished) == ["feedforward-s1", "feedforward-s2", "gru-s1"]
    for cell in finished:
        steps = [
            json.loads(line)["step"]
            for line in (output / cell / "metrics.jsonl").read_text().splitlines()
        ]
        assert steps == sorted(set(steps)), "a resumed curve has no step twice"
        assert steps[-1] >= 6_000


def test_workers_get_their_share_of_the_cores():
    environment = worker_environment(3)
    assert environment["OMP_NUM_THREADS"] == environment["NUMBA_NUM_THREADS"] == "3"
    assert environment["PATH"] == os.environ["PATH"]
