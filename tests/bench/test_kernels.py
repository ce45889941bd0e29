"""``fwp-rl bench kernels`` on tiny shapes: what it writes, what it refuses, what it needs."""

import json
import os
import subprocess
import sys
from importlib import import_module

import pytest
import torch

from fwp_rl.bench import kernels
from fwp_rl.bench.kernels import ROUNDS, bench_kernels
from fwp_rl.cli import main
from fwp_rl.config import ConfigError
from fwp_rl.kernels import OPS, BackendError


def _replace(monkeypatch, op, function):
    """Another function in the place of an op's."""
    monkeypatch.setattr(import_module(OPS[op].package), op, function)


def test_every_figure_stands_beside_its_floor(tmp_path, capsys):
    file = tmp_path / "kernels.json"
    main(["bench", "kernels", "--quick", "--ops", "fast_weight", f"--json={file}"])
    said = capsys.readouterr().out
    result = json.loads(file.read_text())
    assert result["refused"] == []
    assert result["machine"]["threads"] == torch.get_num_threads()
    assert {"torch", "numba", "fwp-rl"} <= result["versions"].keys()
    acting, learning = result["results"]
    assert [acting["pass"], learning["pass"]] == ["acting", "learning"]
    for case in (acting, learning):
        assert case["times_slower"].keys() == {"reference", "chunkwise", "lstm"}
        assert len(case["rounds"]) == ROUNDS
        assert min(case["milliseconds"].values()) > 0
        floor = max(case["floor_milliseconds"].values())
        assert case["times_above_floor"] > 0
        assert f"{floor:.3f}" in said


def test_the_targets_stand_beside_the_figures(monkeypatch, capsys):
    monkeypatch.setattr(kernels, "QUICK", (kernels.ACTING, kernels.LEARNING[0]))
    bench_kernels(quick=True, ops=("fast_weight",))
    acting, learning = capsys.readouterr().out.splitlines()[-2:]
    assert "(≤ 0.06)" in acting
    assert "(≥ 12)" in learning
    assert "(≥ 1)" in learning
    bench_kernels(quick=True, ops=("fast_weight_channels",))
    assert "(≥ 0.87)" in capsys.readouterr().out.splitlines()[-1], "one decay for all channels"


@pytest.mark.parametrize("wrong", ["y", "gradient of v"])
def test_an_op_that_disagrees_is_not_timed(wrong, monkeypatch, tmp_path, capsys):
    honest = OPS["fast_weight"].run

    def broken(q, k, v, beta, state, *, backend, **options):
        if backend == "numba":
            v = v * 1.01 if wrong == "y" else v + 0.01 * (v - v.detach())
        return honest(q, k, v, beta, state, backend=backend, **options)

    _replace(monkeypatch, "fast_weight", broken)
    file = tmp_path / "kernels.json"
    with pytest.raises(SystemExit) as stop:
        bench_kernels(quick=True, ops=("fast_weight", "fast_rnn"), json=file)
    assert stop.value.code == 1
    result = json.loads(file.read_text())
    assert {case["op"] for case in result["results"]} == {"fast_rnn"}, "the others are timed"
    said = capsys.readouterr().out
    assert len(result["refused"]) == 2
    for problem in result["refused"]:
        assert "fast_weight at T, B, H, D" in problem
        assert f"{wrong} " in problem
        assert f"refused to time {problem}" in said


def test_one_that_fails_does_not_hide_the_others(monkeypatch, tmp_path):
    def out_of_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB.\nMore words.")

    _replace(monkeypatch, "fast_rnn", out_of_memory)
    file = tmp_path / "kernels.json"
    with pytest.raises(SystemExit) as stop:
        bench_kernels(quick=True, ops=("fast_rnn", "fast_weight"), json=file)
    assert stop.value.code == 1
    result = json.loads(file.read_text())
    assert [case["op"] for case in result["results"]] == ["fast_weight"] * 2
    assert len(result["refused"]) == 2
    assert result["refused"][0].startswith("fast_rnn at T, B, H, D = (1, 2, 2, 8): CUDA out of m")
    assert "More words" not in result["refused"][0]


def test_what_has_been_timed_is_kept(monkeypatch, tmp_path):
    """Where the run is cut short."""

    def cut(*_, **__):
        raise KeyboardInterrupt

    _replace(monkeypatch, "fast_rnn", cut)
    file = tmp_path / "kernels.json"
    with pytest.raises(KeyboardInterrupt):
        bench_kernels(quick=True, ops=("fast_weight", "fast_rnn"), json=file)
    assert [case["op"] for case in json.loads(file.read_text())["results"]] == ["fast_weight"] * 2


def test_what_cannot_run_is_named():
    with pytest.raises(ConfigError, match=r"unknown op 'fast_weigth'. Did you mean 'fast_weight'"):
        bench_kernels(ops=("fast_weigth",))
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="backend 'cuda' is not available: torch finds no"):
            bench_kernels(device="cuda")


NEEDS_LITTLE = """
import runpy, sys

class Refuse:
    names = {"tyro", "rich", "gymnasium", "envpool", "ale_py", "pydantic", "yaml", "tensorboard",
             "safetensors", "filelock", "PIL", "matplotlib", "av"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ImportError(f"{name} must not be imported here")

sys.meta_path.insert(0, Refuse())
sys.argv = ["kernels", "--quick", "--ops", "fast_weight"]
runpy.run_module("fwp_rl.bench.kernels", run_name="__main__")
"""


def test_torch_and_numba_are_all_it_needs(tmp_path):
    """No git either: a bare container has none."""
    result = subprocess.run(
        [sys.executable, "-c", NEEDS_LITTLE],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("| fast_weight |") == 2
