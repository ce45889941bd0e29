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

GATED = '''
"""An environment that goes on after its first steps only while the file ``open`` is there, so that
nothing in a test depends on how far a worker comes in some time."""

import os
import pathlib
import time

import gymnasium
import numpy as np

FOLDER = pathlib.Path(__file__).parent


class Gated(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 10
        return np.zeros(2, np.float32), {}

    def step(self, action):
        Gated.steps += 1
        if Gated.steps > 400:
            while not (FOLDER / "open").exists():
                (FOLDER / f"waits-{os.getpid()}").touch()
                time.sleep(0.01)
        self.left -= 1
        return np.full(2, self.left / 10, np.float32), float(action), self.left == 0, False, {}


gymnasium.register("Gated-v0", Gated, max_episode_steps=100)
'''

GRID = {
    "preset": "recall",
    "overrides": {
        "env": {"name": "gymnasium", "id": "Gated-v0"},
        "total_steps": 3_000,
        "evaluation_games": 10,
        "checkpoint_minutes": 0.0001,
        "num_envs": 8,
        "rollout_length": 16,
    },
    "axes": {"core": ["feedforward", "gru"], "seed": [1, 2]},
}


@pytest.fixture
def gate(tmp_path, monkeypatch):
    """The folder of Gated, which every process registers when it starts."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "gated.py").write_text(GATED)
    (folder / "sitecustomize.py").write_text("import gated\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


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


def wait_for(condition):
    """As long as it takes: pytest ends a test that hangs."""
    while not condition():
        time.sleep(0.05)


def at_the_gate(gate: Path, output: Path, cells: int) -> list[int]:
    """The processes that wait there, once each of so many cells has one of its last start."""
    while True:
        last = {row["cell"]: row for row in ledger(output)}
        pids = [x["pid"] for x in last.values() if x["event"] in ("started", "resumed")]
        if len(pids) == cells and all((gate / f"waits-{pid}").exists() for pid in pids):
            return pids
        time.sleep(0.05)


def log(output: Path, cell: str) -> str:
    return (output / "logs" / f"{cell}.log").read_text()


@pytest.mark.slow
def test_killed_stopped_continued_and_failed(tmp_path, gate):
    grid, output = tmp_path / "tiny.yaml", tmp_path / "out"
    grid.write_text(yaml.safe_dump(GRID, sort_keys=False))
    first = start(grid, output)
    victim, other = at_the_gate(gate, output, cells=2)
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: any(row["event"] == "crashed" for row in ledger(output)))
    running = at_the_gate(gate, output, cells=2)
    assert other in running
    assert victim not in running
    second = start(grid, output)
    assert "another fwp-rl ablate" in second.communicate()[0]
    assert second.returncode == 1
    first.send_signal(signal.SIGINT)
    cells = [row["cell"] for row in ledger(output) if row.get("pid") in running]
    for cell in cells:  # not before each has been asked, or it may be done first
        wait_for(lambda cell=cell: "saving and stopping" in log(output, cell))
    (gate / "open").touch()
    said = first.communicate()[0]
    assert first.returncode == 130, said
    killed = next(row["cell"] for row in ledger(output) if row["event"] == "crashed")
    assert f"{killed}: killed by SIGKILL; trying once more" in said
    assert "Go on with the same command" in said
    last = {row["cell"]: row["event"] for row in ledger(output)}
    assert last == dict.fromkeys(cells, "stopped"), "both were stopped, the others never began"

    (output / "gru-s2").mkdir(exist_ok=True)
    (output / "gru-s2" / "thesis.txt").touch()  # in the way: this cell always crashes
    last = start(grid, output)
    said = last.communicate()[0]
    assert last.returncode == 1, said
    assert "failed: gru-s2; the same command tries again" in said
    assert "is not empty" in log(output, "gru-s2")
    events = [row["event"] for row in ledger(output) if row["cell"] == "gru-s2"]
    assert events == ["started", "crashed", "started", "failed"]
    finished = [row["cell"] for row in ledger(output) if row["event"] == "finished"]
    assert sorted(finished) == ["feedforward-s1", "feedforward-s2", "gru-s1"]
    for cell in finished:
        steps = [
            json.loads(line)["step"]
            for line in (output / cell / "metrics.jsonl").read_text().splitlines()
        ]
        assert steps == sorted(set(steps)), "a resumed curve has no step twice"
        assert steps[-1] >= 3_000


def test_workers_get_their_share_of_the_cores():
    environment = worker_environment(3)
    assert environment["OMP_NUM_THREADS"] == environment["NUMBA_NUM_THREADS"] == "3"
    assert environment["PATH"] == os.environ["PATH"]
