"""A training that is killed at random instants, and resumed until it is killed again.

FWP_RL_KILLS=200 pytest -s -m long tests/faults/test_kills.py
"""

import json
import os
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fwp_rl.evaluation import open_policy
from fwp_rl.runs.checkpoint import checkpoint_path, checkpoint_steps, newest_good
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.metrics import read_metrics

KILLS = int(os.environ.get("FWP_RL_KILLS", "200"))
INTERVAL = 0.2
"""Seconds between two checkpoints; in every second session all updates make one."""
TOTAL = 10**6
RATE = 0.001
FIELDS = (
    f"total_steps={TOTAL}",
    f"learning_rate={RATE}",
    "anneal_learning_rate=true",
    'logger="tensorboard"',
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows processes get no signals")


def kill_and_resume(server, folder: Path, agent: str, kills: int) -> Counter[str]:
    """What happened how often; asserts after each kill that nothing is lost."""
    draw = random.Random(f"{agent} {kills}")
    told: Counter[str] = Counter()
    run = RunDirectory(folder / "run")
    for number in range(kills):
        saves_at_once = number % 2 == 1
        before = newest_step(run)
        minutes = 1e-9 if saves_at_once else INTERVAL / 60
        trainee = server.start(
            folder, agent, "nothing", *FIELDS, f"checkpoint_minutes={minutes}", at=1
        )
        if draw.random() < 0.8:  # else it may not even have begun
            trainee.wait_for("Run directory:")
        time.sleep(draw.uniform(0, 3 * INTERVAL))
        trainee.send(signal.SIGKILL)
        assert trainee.wait() == -signal.SIGKILL, trainee.said
        check_resumed(trainee.said, before)
        check_whole(run)
        after = newest_step(run)
        assert (after or 0) >= (before or 0)
        saved = after != before
        if saved:
            assert leftovers(run, but_of=trainee.pid) == []
            rows = read_metrics(run.metrics)
            lost = check_loss(rows, after, 1e-9 if saves_at_once else INTERVAL)
            told["updates lost"] += lost
        told["kills"] += 1
        told["kills of a run that had begun"] += "Run directory:" in trainee.said
        told["resumes"] += "Resumed at step" in trainee.said
        told["sessions that saved"] += saved
        told["kills that left temporary files"] += bool(leftovers(run))
    trainee = server.start(folder, agent, "nothing", *FIELDS, at=1)
    trainee.wait_for("Run directory:")
    trainee.send(signal.SIGTERM)
    assert trainee.wait() == 143, trainee.said
    check_whole(run)
    check_metrics(run)
    told["steps"] = newest_step(run) or 0
    return told


def newest_step(run: RunDirectory) -> int | None:
    """None before the first checkpoint. A damaged one fails the test."""
    good = newest_good(run.checkpoints, warn=pytest.fail)
    return None if good is None else good.step


def leftovers(run: RunDirectory, *, but_of: int | None = None) -> list[str]:
    """What lies about under temporary names, but for what this process left."""
    names = [path.name for path in run.path.rglob(".tmp-*") if path.parent.name != "evaluations"]
    return [name for name in names if not name.startswith(f".tmp-{but_of}-")]


def check_resumed(said: str, newest: int | None) -> None:
    """From the newest checkpoint, and without a complaint."""
    for step in re.findall(r"Resumed at step ([\d,]+)", said):
        assert int(step.replace(",", "")) == newest, said
    for word in ("Traceback", "WARNING", "damaged"):
        assert word not in said


def check_whole(run: RunDirectory) -> None:
    """All that a reader may look at."""
    steps = checkpoint_steps(run.checkpoints)
    for step in steps:  # not one of them is half
        open_policy(checkpoint_path(run.checkpoints, step), "last")
    if not steps:
        return
    run.read_status()
    # the policy folder is written after its checkpoint
    if run.policy.exists() or len(steps) > 1:
        assert open_policy(run.path, "last").metadata["step"] <= steps[-1]
    check_metrics(run)


def check_metrics(run: RunDirectory) -> None:
    """No row twice; steps, time and learning rate go on where they were."""
    rows: list[dict[str, Any]] = (
        [
            json.loads(line)
            for line in run.metrics.read_bytes().splitlines(keepends=True)
            if line.endswith(b"\n")
        ]
        if run.metrics.exists()
        else []
    )
    before = {"step": 0, "time": 0.0}
    for row in rows:
        assert row["step"] > before["step"]
        assert row["time"] >= before["time"]
        rate = RATE * (1 - before["step"] / TOTAL)
        assert row["optimizer/learning_rate"] == pytest.approx(rate, rel=1e-9)
        before = row


def check_loss(rows: list[dict[str, float]], saved: int, interval: float) -> int:
    """The updates that a kill cost: those within one interval, and one more.

    Each but the last was looked at and found not due: it ended less than an interval after the
    checkpoint was written, and that was before the first of them ended.
    """
    lost = [row for row in rows if row["step"] > saved]
    if len(lost) > 1:
        assert lost[-2]["time"] - lost[0]["time"] <= interval + 0.002
    return len(lost)


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["ppo", "threads"])
def test_a_killed_training_resumes_where_it_saved(agent, server, tmp_path):
    told = kill_and_resume(server, tmp_path, agent, 6)
    assert told["resumes"] >= 3


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_hundred_kills_lose_nothing(server, tmp_path, record):
    told: Counter[str] = Counter()
    for agent, share in (("ppo", KILLS - KILLS // 2), ("threads", KILLS // 2)):
        told += kill_and_resume(server, tmp_path / agent, agent, share)
    record("kills", dict(told))
