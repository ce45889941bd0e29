"""A save that is killed at each of its system calls: the run stays readable, and the next save
cleans up."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from fwp_rl.runs.checkpoint import best, checkpoint_path, checkpoint_steps, newest_good
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.policy import load_saved

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="Windows has no fork"),
]

OLD, NEW, NEXT = (100, 200, 300), 400, 500
"""Steps of the checkpoints before, of the one whose save is killed, and of the one after it."""
STRIDE = 6
"""In CI every sixth of the points, and all writes."""


@pytest.fixture(scope="module")
def points(server, tmp_path_factory) -> tuple[Path, list[str]]:
    """A run with checkpoints, and the names of the calls that one more of them takes."""
    folder = tmp_path_factory.mktemp("points")
    for step in OLD:
        code, said = save(server, folder, folder / "run", step)
        assert code == 0, said
    shutil.copytree(folder / "run", folder / "other")
    _, said = save(server, folder, folder / "other", NEW)
    return folder / "run", said.split()


def save(server, folder: Path, run: Path, step: int, point: int = 0, when: str = "before"):
    """Exit code and words of a process that saves."""
    output = folder / f"said-{step}-{point}-{when}"
    pid = server.ask("save", [str(run), str(step), str(point), when], str(output))
    code = server.ask("wait", pid)
    said = output.read_text()
    output.unlink()
    return code, said


def kill_at(server, folder: Path, source: Path, point: int, when: str, step: int) -> None:
    run = RunDirectory(folder / "run")
    shutil.copytree(source, run.path)
    code, said = save(server, folder, run.path, step, point, when)
    assert code == 9, said
    check(run, known={*OLD, step})
    assert save(server, folder, run.path, NEXT)[0] == 0
    check(run, known={NEXT})
    assert checkpoint_steps(run.checkpoints) == [OLD[0], step if has(run, step) else OLD[-1], NEXT]
    left = [path for path in run.path.rglob("*") if path.name.startswith(".tmp-")]
    assert left == []
    for path in run.path.rglob("*.old"):  # it may stand in for what it was to be replaced by
        assert not path.with_suffix("").exists()
    shutil.rmtree(run.path)


def has(run: RunDirectory, step: int) -> bool:
    return step in checkpoint_steps(run.checkpoints)


def check(run: RunDirectory, known: set[int]) -> None:
    """The newest checkpoint, the best and the policy can be read and are whole."""
    newest = newest_good(run.checkpoints, warn=pytest.fail)
    assert newest is not None
    assert newest.step in known
    assert newest.state == {"games": newest.step}
    for tensor in newest.policy.values():
        assert torch.allclose(tensor, torch.tensor(newest.step / 1000), atol=0.01)
    assert best(run.checkpoints) == checkpoint_path(run.checkpoints, OLD[0])
    policy = load_saved(run.path)
    assert policy.metadata["step"] in known
    for tensor in policy.policy.parameters():
        assert torch.allclose(tensor, torch.tensor(policy.metadata["step"] / 1000), atol=0.01)
    assert run.read_status()["step"] in known


def moments(names: list[str]) -> list[tuple[int, str]]:
    """Every place where a save can end: before and after each call, and within each write."""
    return [
        (number, when)
        for number, name in enumerate(names, start=1)
        for when in ("before", "torn", "after")
        if when != "torn" or name == "write"
    ]


def test_a_save_takes_the_calls_that_are_counted(points):
    """Were they not seen, nothing would be tested."""
    _, names = points
    counts = {name: names.count(name) for name in set(names)}
    files = 4 + 3 + 1  # checkpoint, policy, status, with their manifests
    assert counts["write"] == files
    assert counts["fsync"] == files + 5  # and the folders
    assert counts["rename"] + counts["replace"] >= 5


@pytest.mark.parametrize("step", [NEW, OLD[-1]], ids=["a_new_step", "the_same_step"])
def test_a_save_killed_at_some_calls_leaves_a_run(step, points, server, tmp_path):
    source, names = points
    for number, (point, when) in enumerate(moments(names)):
        if when == "torn" or number % STRIDE == 0:
            kill_at(server, tmp_path, source, point, when, step)


@pytest.mark.long
def test_a_save_killed_at_any_call_leaves_a_run(points, server, tmp_path, record):
    source, names = points
    for step in (NEW, OLD[-1]):
        for point, when in moments(names):
            kill_at(server, tmp_path, source, point, when, step)
    record("crash points", {"calls": len(names), "saves killed": 2 * len(moments(names))})
