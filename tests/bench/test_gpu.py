"""``python -m fwp_rl.bench.gpu`` without a GPU: a dry run, and what a failure leaves."""

import json
import os
import subprocess
import sys

import pytest

from fwp_rl.bench.gpu import STAGES

REFUSE = """
import sys

class Refuse:
    names = {"tyro", "rich", "gymnasium", "envpool", "ale_py", "pydantic", "yaml", "tensorboard",
             "safetensors", "filelock", "PIL", "matplotlib", "av"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ImportError(f"{name} must not be imported here")

sys.meta_path.insert(0, Refuse())
"""

DIES = """
import sys
if "fwp_rl.bench.gpu_cases" in sys.orig_argv:
    import os, torch
    def to(self, *to, real=torch.Tensor.to):
        if torch.bfloat16 in to:
            os.abort()
        return real(self, *to)
    torch.Tensor.to = to
"""


def _check(tmp_path, *arguments, startup="", path=None):
    """Run the check: its exit code, what it printed, and its results."""
    (tmp_path / "sitecustomize.py").write_text(startup)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    if path is not None:
        environment["PATH"] = str(path)
    command = [sys.executable, "-m", "fwp_rl.bench.gpu", "--device", "cpu", "--ops", "fast_weight"]
    command += ["--minutes", "90"]  # ten times as long as it should take: the cores may be busy
    command += ["--output", str(tmp_path / "out"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    file = tmp_path / "out" / "results.jsonl"
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return done.returncode, done.stdout + done.stderr, results


@pytest.mark.slow
def test_a_dry_run_goes_through_every_stage(tmp_path):
    code, said, results = _check(tmp_path)
    assert code == 0, said
    assert list(dict.fromkeys(x["stage"] for x in results)) == ["start", *STAGES]
    assert not [x for x in results if "problem" in x]
    assert "written to" in said
    times = [x for x in results if "shape" in x]
    assert times
    for case in times:
        assert case["numba_forward"] > 0
        assert case["moved_bytes"] > 0
    policy = {x["case"]: x for x in results if x["stage"] == "policy"}
    net = policy["lstm, (9, 3), a reset in 20 steps"]
    assert net["error"] < 1e-5
    assert min(net["packed_ms"], net["cut_ms"]) > 0
    for core in ("delta_net", "lstm"):  # nothing of it changes what a CPU computes
        assert policy[f"{core}, TF32"]["tf32_error"] == policy[f"{core}, TF32"]["float32_error"]
    (training,) = [x for x in results if x["stage"] == "agents" and x["case"] == "PPO"]
    assert training["steps"] >= 4096
    assert training["ratio_deviation"] < 1e-3
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert " 0 problems" in summary
    assert "| fast_weight, float32, (5, 2, 2, 8) |" in summary


def test_torch_numba_and_pytest_are_all_it_needs(tmp_path):
    """No git either. What trains agents is left out and says so."""
    stages = ("--stages", "smoke", "times", "memcheck", "agents")
    code, said, results = _check(tmp_path, *stages, startup=REFUSE, path=tmp_path)
    assert code == 0, said
    left_out = {x["stage"]: x["said"] for x in results if x["case"] == "all"}
    assert left_out["memcheck"] == "left out: compute-sanitizer is not installed"
    assert left_out["agents"].startswith("left out: envpool, ")


@pytest.mark.slow
def test_a_case_that_takes_the_process_with_it_hides_no_other(tmp_path):
    code, said, results = _check(
        tmp_path, "--stages", "smoke", "times", "--keep-going", startup=DIES
    )
    assert code == 1, said
    smoke = {x["case"]: x for x in results if x["stage"] == "smoke"}
    assert smoke["fast_weight, bfloat16, tiny"]["problem"] == "the process ended with exit code -6"
    assert "problem" not in smoke["fast_weight, float32, tiny"]
    timed = [x for x in results if "shape" in x]
    assert len(timed) == 2, "float32 of both sizes, each behind a case that died"


def test_what_is_left_when_the_time_is_up_is_named(tmp_path):
    code, said, results = _check(tmp_path, "--minutes", "0", "--stages", "smoke", "times")
    assert code == 3, "nothing is timed that was not shown to be right"
    assert [x["problem"] for x in results if "problem" in x] == ["not begun: the time was up"]
    assert "smoke failed" in said


def test_a_device_that_is_not_there_is_named(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    code, said, results = _check(tmp_path, "--device", "cuda")
    assert code == 1
    assert said.strip() == "backend 'cuda' is not available: torch finds no CUDA device"
    assert not results
