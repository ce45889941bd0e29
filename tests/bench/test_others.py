"""``fwp-rl bench scaling``, ``envs`` and ``cores``, tiny, through the command line."""

import json
from pathlib import Path

import pytest

from fwp_rl.bench.names import core_names
from fwp_rl.bench.runs import Task
from fwp_rl.bench.scaling import QUICK, bench_scaling
from fwp_rl.cli import main


def _tables(said: str) -> list[str]:
    """The lines of the tables, which fit a terminal."""
    lines = [line for line in said.splitlines() if line[:1] in "┏┃┡│└"]
    assert max(map(len, lines)) <= 80
    assert "…" not in said
    return lines


@pytest.mark.slow
def test_speed_and_memory_by_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "scaling.json"
    main(["bench", "scaling", "--quick", "--core", "lstm", f"--output={file}"])
    result = json.loads(file.read_text())
    assert result["core"] == "lstm"
    sizes = [(cell["num_envs"], cell["unroll"]) for cell in result["cells"]]
    assert sizes == [(n, unroll) for n in QUICK[0] for unroll in QUICK[1]]
    for cell in result["cells"]:
        assert cell["steps_per_second"] > 0
        assert cell["peak_memory"] > 50e6
    rows = [line.split() for line in _tables(capsys.readouterr().out) if line.startswith("│")]
    assert [(row[1], row[3]) for row in rows] == [(str(n), str(unroll)) for n, unroll in sizes]


@pytest.mark.slow
def test_a_size_that_fails_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FWP_RL_KERNELS", "nonsense")
    file = tmp_path / "scaling.json"
    bench_scaling("delta_net", Task(), ((4,), (4,)), least_steps=1, output=file)
    (cell,) = json.loads(file.read_text())["cells"]
    assert "unknown backend 'nonsense'" in cell["failed"]
    said = " ".join(capsys.readouterr().out.split())
    assert "4 x 4 failed: BackendError: FWP_RL_KERNELS: unknown backend 'nonsense'" in said


def test_environments_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "envs.json"
    envs = ("pong", "recall", "cartpole_gymnasium")
    command = ["bench", "envs", "--quick", "--envs", *envs, "--num-envs", "2", "4"]
    main([*command, "--threads", "1", "4", f"--output={file}"])
    result = json.loads(file.read_text())
    assert result["failed"] == {}
    measured = {
        (cell["environment"], cell["num_envs"], cell["threads"]) for cell in result["cells"]
    }
    single = {(name, n, 1) for name in envs for n in (2, 4)}
    assert measured == single | {("pong", 4, 4)}, "no more threads than environments"
    assert all(cell["steps_per_second"] > 0 for cell in result["cells"])
    assert len(_tables(capsys.readouterr().out)) >= len(measured)


def test_every_core_beside_its_bare_arithmetic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cores.json"
    main(["bench", "cores", "--quick", f"--output={file}"])
    result = json.loads(file.read_text())
    assert list(result["cores"]) == core_names()
    for name, found in result["cores"].items():
        for case in (found["learning"], found["acting"]):
            (round_,) = case["rounds"]
            assert case["module"] == round_["module"] > 0
            if name == "feedforward":
                assert "bare" not in case, "it computes nothing"
            else:
                assert case["ratio"]["value"] == round_["module"] / round_["bare"]
    assert len(_tables(capsys.readouterr().out)) >= len(core_names())


def test_a_size_that_a_core_cannot_have_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "cores", "--cores", "delta_net", "--hidden-size", "30"])
    assert stop.value.code == 2
    assert "delta_net: hidden_size: got 30, expected a multiple of heads" in capsys.readouterr().err
