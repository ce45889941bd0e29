"""``fwp-rl train``: what the arguments ask for, and runs that go on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import fwp_rl
from fwp_rl import agents
from fwp_rl.cli import main
from fwp_rl.config import ConfigError
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.metrics import read_metrics
from fwp_rl.runs.presets import config_to_dict

TINY = [
    "--total-steps=300", "--num-envs=8", "--minibatches=2", "--rollout-length=16", "--plain",
    "--evaluation-games=8",
]  # fmt: skip


def run(*args: object) -> int:
    """Exit code of ``fwp-rl ARGS``."""
    try:
        main([str(arg) for arg in args])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def last_step(path: Path) -> float:
    return read_metrics(path / "metrics.jsonl")[-1]["step"]


def evaluations(path: Path) -> int:
    return len(list((path / "evaluations").glob("*.json")))


def job(path: Path, *flags: str) -> int:
    """The one line of a job script."""
    return run("train", "recall", *TINY, f"--run-dir={path}", "--resume", "auto", *flags)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    assert job(path) == 0
    return path


@pytest.fixture
def begun(trained: Path, tmp_path: Path) -> Path:
    """A copy of a complete run, to be gone on with."""
    return shutil.copytree(trained, tmp_path / "run")


def test_the_same_line_starts_a_run_and_leaves_a_complete_one_alone(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.stat().st_mtime_ns for file in begun.rglob("*") if file.is_file()}
    assert evaluations(begun) == 1
    assert job(begun) == 0
    assert capsys.readouterr().out == (
        f"{begun}: is complete at 300 steps; a larger --total-steps extends it\n"
    )
    assert {file: file.stat().st_mtime_ns for file in begun.rglob("*") if file.is_file()} == before


def test_the_same_line_goes_on_with_the_flags_on_top_of_the_runs_config(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job(begun, "--total-steps=600") == 0
    assert "Resumed at step" in capsys.readouterr().out
    assert last_step(begun) >= 600
    # what was extended stays so, though this line's preset and flags say less
    extended = [flag for flag in TINY if "total" not in flag]
    assert run("train", "recall", *extended, f"--run-dir={begun}", "--resume=auto") == 0
    said = capsys.readouterr().out
    assert "goes on to its own 600 steps, not the preset's 100,000; --total-steps extends" in said
    assert "is complete at 600 steps" in said


def test_a_complete_run_is_left_alone_by_name_too(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.stat().st_mtime_ns for file in begun.rglob("*") if file.is_file()}
    assert run("train", "--resume", begun) == 0
    assert "is complete at 300 steps; a larger --total-steps extends it" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in begun.rglob("*") if file.is_file()} == before
    assert run("train", "--resume", begun, "--evaluation-games=16") == 0
    assert evaluations(begun) == 2, "it was evaluated on fewer games than are asked for now"


def test_a_run_that_was_not_evaluated_to_its_end_is_not_complete(begun: Path) -> None:
    shutil.rmtree(begun / "evaluations")
    assert job(begun) == 0
    assert job(begun) == 0
    assert evaluations(begun) == 1


def test_the_preset_has_to_be_of_the_same_experiment(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job(begun, "core:lstm") == 1
    said = capsys.readouterr().err
    assert "was trained with core.name = 'delta_net', asked for is 'lstm'" in said
    assert job(begun, "--seed=7") == 1
    assert "was trained with seed = 1, asked for is 7" in capsys.readouterr().err


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = RunDirectory.create(tmp_path / "run")
    config = replace(agents.load_preset("recall"), run_dir=str(killed.path), total_steps=7)
    killed.write_config(config_to_dict(config))
    killed.write_status("running", step=0, total=7)
    killed.metrics.touch()
    assert job(killed.path) == 0
    assert "Resumed" not in capsys.readouterr().out
    assert last_step(killed.path) >= 300


def test_a_run_that_has_lost_its_checkpoints_is_not_thrown_away(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(begun / "checkpoints")
    assert job(begun, "--total-steps=600") == 1
    assert "holds no checkpoint" in capsys.readouterr().err
    assert (begun / "policy").is_dir()
    assert last_step(begun) >= 300


def test_what_is_in_the_way_is_not_thrown_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").touch()
    assert job(tmp_path) == 1
    assert "is not empty (it holds thesis.tex)" in capsys.readouterr().err


def test_from_python(begun: Path) -> None:
    config = agents.load_preset(str(begun / "config.yaml"))
    assert fwp_rl.train(config, resume="auto") == Path(config.run_dir or "")
    moved = replace(config, run_dir=f"{begun}/", evaluation_games=0)
    assert fwp_rl.train(replace(moved, total_steps=450), resume="auto") == begun
    assert last_step(begun) >= 450
    with pytest.raises(ConfigError, match="give --run-dir"):
        fwp_rl.train(replace(config, run_dir=None), resume="auto")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["recall", "--resume", "auto"], "run_dir: is missing; resume auto goes by it"),
        (["--resume", "auto"], "--resume auto needs the preset"),
        (["--resume=auto", "--seed=3"], "--resume auto needs the preset"),
        (["recall", "--resume="], "--resume needs the run directory to continue, or auto"),
        (["--resume", "a", "--resume", "b"], "--resume: got a and b, expected one run"),
        (["--resume", "a", "recall"], "--run-dir a --resume auto starts a run or continues it"),
        (["core:lstm"], "the first argument is a preset"),
    ],
)
def test_calls_that_mean_nothing(
    args: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("train", *args) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_keeps_its_core(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["core:lstm"], ["--seed=1", "core:lstm"]):
        assert run("train", "--resume", trained, *args) == 2
        said = capsys.readouterr().err
        assert said.startswith("fwp-rl: core: got core:lstm, but a resumed run keeps its core")
        assert "which is delta_net" in said
    assert run("train", "--resume", trained, "env:classic") == 2
    assert "a resumed run keeps its env, which is recall" in capsys.readouterr().err


def test_help_of_a_run_shows_its_values(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["--resume", trained], ["recall", "--resume", "auto"]):
        assert run("train", *args, "--help") == 0
        assert "--total-steps" in capsys.readouterr().out
    assert run("train", "--resume", trained, "core:delta-net", "--help") == 0


IMPALA = [
    "env:recall", "core:gru", "--core.hidden-size=8", "--num-envs=4", "--batch-size=2",
    "--unroll-length=16", "--total-steps=200", "--evaluation-games=4", "--plain",
]  # fmt: skip


@pytest.mark.slow
def test_a_run_moves_between_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that was trained on a machine with eight GPUs, on one with none."""
    path = tmp_path / "run"
    assert run("train", "impala_minigrid_memory", *IMPALA, f"--run-dir={path}") == 0
    config = yaml.safe_load((path / "config.yaml").read_text())
    config |= {"device": "cuda:7", "learner_threads": 12}
    config["actors"] |= {"device": "cuda:6", "cpu_threads": 3}
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    assert run("evaluate", path, "--device=cpu", "--games=4") == 0
    assert run("report", path, "-o", tmp_path / "report") == 0
    capsys.readouterr()
    assert run("train", "--resume", path, "--total-steps=400") == 2
    assert "device: got 'cuda:7', but torch finds" in capsys.readouterr().err
    here = ["--device=cpu", "--actors.device=cpu", "--actors.cpu-threads=1", "--learner-threads=1"]
    assert run("train", "--resume", path, "--total-steps=400", *here) == 0
    assert last_step(path) >= 400
    assert json.loads((path / "status.json").read_text())["state"] == "finished"
    kept = yaml.safe_load((path / "config.yaml").read_text())
    assert (kept["device"], kept["actors"]["device"]) == ("cpu", "cpu")
    assert (kept["learner_threads"], kept["actors"]["cpu_threads"]) == (1, 1)


def test_an_ablation_moves_between_machines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = {"total_steps": 200, "device": "cuda:7"}
    grid = {"preset": "recall", "overrides": overrides, "axes": {"seed": [1]}}
    file, output = tmp_path / "grid.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(grid))
    begun = RunDirectory.create(output / "s1")
    config = replace(agents.load_preset("recall"), total_steps=200, device="cuda:7")
    begun.write_config(config_to_dict(config))
    overrides["device"] = "cpu"
    for grid_of_now in (grid, grid | {"overrides": overrides}):
        file.write_text(yaml.safe_dump(grid_of_now))
        assert run("ablate", file, "--dry-run", f"--output={output}") == 0
        assert "1 cells, 0 finished" in capsys.readouterr().out
