"""Disks that are full, read-only or gone while a training writes to them. A training outlives what
passes, and ends in one line where it does not."""

import os
import signal

import pytest

from fwp_rl.runs.checkpoint import checkpoint_steps, load_checkpoint, newest_good
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.metrics import read_metrics
from fwp_rl.runs.policy import load_saved

from . import disks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="Windows has neither fork nor these limits"),
]

UPDATE = 8
"""Steps of all environments between two updates, each of which saves a checkpoint."""
AT = 4 * UPDATE + 4
"""The step at which something happens: in the middle of a rollout."""
END = 10 * UPDATE * 4
"""Environment steps of the whole training, in four environments."""
ACTORS = {"cli-ppo": 1, "cli-inline": 2}
"""Each of which steps its environments between two updates."""


def start(server, folder, fault, *, agent="cli-ppo", at=AT):
    return server.start(
        folder, agent, fault, "checkpoint_minutes=1e-9", f"total_steps={END}", at=at
    )


def lines(said: str, word: str) -> list[str]:
    return [line for line in said.splitlines() if word in line]


def check_good(run: RunDirectory) -> int:
    """Everything that can be read is whole; the newest step."""
    steps = checkpoint_steps(run.checkpoints)
    for step in steps:
        load_checkpoint(run.checkpoints / f"step_{step:012d}")
    assert load_saved(run.path).metadata["step"] <= steps[-1]
    newest = newest_good(run.checkpoints, warn=pytest.fail)
    assert newest is not None
    return newest.step


@pytest.mark.parametrize(
    ("agent", "fault"),
    [
        ("cli-ppo", "full"),
        ("cli-inline", "full"),
        ("cli-ppo", "no-space"),
        ("cli-ppo", "read-only"),
        ("cli-ppo", "renamed"),
    ],
)
def test_a_training_outlives_a_disk_that_recovers(agent, fault, server, tmp_path):
    updates = UPDATE * ACTORS[agent]
    trainee = start(server, tmp_path, f"{fault}:{2 * updates}", agent=agent, at=AT * ACTORS[agent])
    assert trainee.wait() == 0, trainee.said
    assert "Traceback" not in trainee.said
    assert "mended" in trainee.said
    failed = lines(trainee.said, "could not be written (")
    assert [line.startswith("WARNING: the checkpoint of step") for line in failed] == [True] * 2
    run = RunDirectory(trainee.run)
    assert check_good(run) >= END
    assert run.read_status()["state"] == "finished"
    steps = [row["step"] for row in read_metrics(run.metrics)]
    assert steps == sorted(set(steps))
    assert len(steps) >= END // (4 * UPDATE)  # what could not be written was waiting


@pytest.mark.parametrize("fault", ["full", "no-space", "read-only"])
def test_a_disk_that_stays_so_ends_the_run_in_one_line(fault, server, tmp_path):
    trainee = start(server, tmp_path, fault)
    assert trainee.wait() == 1, trainee.said
    assert "Traceback" not in trainee.said
    last = trainee.said.splitlines()[-1]
    assert "3 checkpoints in a row could not be written" in last
    assert len(lines(trainee.said, "3 checkpoints in a row")) == 1
    assert len(lines(trainee.said, "training goes on, the next attempt follows")) == 2
    run = RunDirectory(trainee.run)
    before = check_good(run)
    assert 0 < before < 4 * AT
    disks.MENDED["read-only"](run.path)
    again = start(server, tmp_path, "nothing")
    assert again.wait() == 0, again.said
    assert f"Resumed at step {before:,}" in again.said
    assert check_good(run) >= END
    assert not list(run.path.rglob(".tmp-*"))


def test_a_removed_run_ends_in_one_line_and_is_not_made_again(server, tmp_path):
    trainee = start(server, tmp_path, "removed")
    assert trainee.wait() == 1, trainee.said
    assert "Traceback" not in trainee.said
    assert "the run directory is gone" in trainee.said.splitlines()[-1]
    assert not trainee.run.exists()


@pytest.mark.parametrize("fault", ["checkpoints-removed", "events-removed", "metrics-removed"])
def test_what_is_removed_from_a_run_is_made_anew(fault, server, tmp_path):
    trainee = start(server, tmp_path, fault)
    assert trainee.wait() == 0, trainee.said
    assert "Traceback" not in trainee.said
    run = RunDirectory(trainee.run)
    assert check_good(run) >= END
    warnings = lines(trainee.said, "WARNING")
    assert len(warnings) == (fault == "metrics-removed"), trainee.said
    assert read_metrics(run.metrics)[-1]["step"] >= END
    numbers = [int(path.name.split(".")[3]) for path in run.path.glob("events.*")]
    assert max(numbers) == 2 if fault == "events-removed" else 1


def test_a_stop_on_a_full_disk_ends_in_one_line(server, tmp_path):
    """What was learned since is lost, and that is said."""
    trainee = server.start(
        tmp_path, "cli-ppo", "full", "total_steps=1000000000", "checkpoint_minutes=60", at=AT
    )
    trainee.wait_for("planted")
    trainee.send(signal.SIGTERM)
    assert trainee.wait() == 1, trainee.said
    assert "Traceback" not in trainee.said
    assert "3 checkpoints in a row could not be written" in trainee.said.splitlines()[-1]
    assert check_good(RunDirectory(trainee.run)) == 0
