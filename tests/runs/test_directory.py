import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
import yaml

from fwp_rl.runs.directory import RunDirectory, RunError, default_run_name

HOLDER = textwrap.dedent(
    """
    import sys, time
    from fwp_rl.runs.directory import RunDirectory

    with RunDirectory.open(sys.argv[1]).lock():
        print("locked", flush=True)
        time.sleep(60)
    """
)


def make_run(path) -> RunDirectory:
    run = RunDirectory.create(path)
    run.write_config({"agent": "ppo", "seed": 1})
    return run


def test_create_then_open(tmp_path):
    run = RunDirectory.create(tmp_path / "runs" / "one")
    with pytest.raises(RunError, match=r"no config\.yaml"):
        RunDirectory.open(run.path)
    run.write_config({"agent": "ppo", "core": {"name": "lstm", "rates": [1, 2]}})
    assert RunDirectory.is_run(run.path)
    assert RunDirectory.open(str(run.path)) == run
    text = run.config.read_text()
    assert yaml.safe_load(text) == {"agent": "ppo", "core": {"name": "lstm", "rates": [1, 2]}}
    assert text.startswith("agent"), "fields keep their order"


def test_create_refuses_a_run_and_says_what_to_do(tmp_path):
    make_run(tmp_path / "one")
    with pytest.raises(RunError, match="holds a run already; continue it with --resume"):
        RunDirectory.create(tmp_path / "one")


def test_create_refuses_foreign_files(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"not empty \(it holds thesis\.tex\)"):
        RunDirectory.create(tmp_path)


def test_create_takes_what_a_failed_start_left(tmp_path):
    run = RunDirectory.create(tmp_path / "one")
    with run.lock():
        pass
    assert RunDirectory.create(tmp_path / "one") == run


def test_unusable_paths(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match=r"cannot be made or written: .*--run-dir"):
            RunDirectory.create(path)
    with pytest.raises(RunError, match="there is no such run directory"):
        RunDirectory.open(tmp_path / "absent")


def test_default_names_are_given_to_one_run_each(tmp_path):
    """Though all ask for the same one at the same moment."""
    barrier = threading.Barrier(8)

    def take(_):
        barrier.wait()
        return RunDirectory.create_default(tmp_path / "runs", "ppo-recall")

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(take, range(8)))
    names = ["ppo-recall", *(f"ppo-recall-{number}" for number in range(2, 9))]
    assert sorted(run.path.name for run in taken) == sorted(names)


def test_a_default_name_below_what_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file: cannot be made or written: .*--run-dir"):
        RunDirectory.create_default(tmp_path / "file", "ppo-recall")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_read_only_directory(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="cannot be made or written"):
        RunDirectory.create(tmp_path)


def test_status(tmp_path):
    run = make_run(tmp_path / "one")
    assert run.read_status() == {}
    run.write_status("running", step=0, total=100)
    first = run.read_status()
    run.write_status("finished", step=100, total=100)
    status = json.loads(run.status.read_text())
    assert (status["state"], status["step"], status["total"]) == ("finished", 100, 100)
    assert (status["pid"], status["host"]) == (os.getpid(), socket.gethostname())
    assert status["started"] == first["started"] <= status["updated"]
    assert {"python", "torch", "numpy", "fwp-rl"} <= status["versions"].keys()


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path):
    run = make_run(tmp_path / "one")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "locked\n"
        message = f"process {holder.pid} on host {socket.gethostname()}"
        with pytest.raises(RunError, match=message), run.lock():
            pass
        with pytest.raises(RunError, match=message), run.lock():  # the first try broke nothing
            pass
    finally:
        holder.kill()
        holder.wait()
    with run.lock():
        pass
    with run.lock():
        pass


def test_two_locks_in_one_process(tmp_path):
    run = make_run(tmp_path / "one")
    with run.lock():
        with pytest.raises(RunError, match=f"process {os.getpid()} "), run.lock():
            pass
        with pytest.raises(RunError, match="is being trained"), RunDirectory(run.path).lock():
            pass


def test_the_lock_is_released_by_an_error(tmp_path):
    run = make_run(tmp_path / "one")
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    with run.lock():
        pass


def test_default_name():
    name = default_run_name(
        "ppo_atari", game="a b/c:d", core="delta_net", seed=3, now=datetime(2026, 1, 2, 3, 4, 5)
    )
    assert name == "ppo_atari-a_b_c_d-delta_net-s3-20260102-030405"


@pytest.mark.parametrize("state", ["running", "finished", "stopped", "failed"])
def test_a_run_that_says_running_and_holds_no_lock_was_killed(tmp_path, state):
    run = RunDirectory.create(tmp_path / "run")
    run.write_status(state, step=1, total=2)
    with run.lock():
        assert run.is_locked()
        assert run.state() == state
    assert not run.is_locked()
    assert run.state() == ("killed" if state == "running" else state)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"state": "fine"}', '{"state": []}', "\x00"])
def test_a_state_that_cannot_be_read_is_unknown(tmp_path, text):
    run = RunDirectory.create(tmp_path / "run")
    assert run.state() == "unknown"
    run.status.write_text(text)
    assert run.state() == "unknown"


def test_a_lock_that_cannot_be_asked_leaves_the_state_as_it_is_said(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    run.write_status("running", step=1, total=2)
    (run.path / ".lock").mkdir()
    assert run.state() == "running"
