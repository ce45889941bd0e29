"""Weights & Biases as it is, without its server. The extra ``wandb`` holds it, and .ci/run installs
that and runs this file."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fwp_rl import agents  # noqa: F401  # fills the registry of agents
from fwp_rl.ablation.grid import load_grid
from fwp_rl.ablation.runner import wandb_environment
from fwp_rl.cli import main
from fwp_rl.config import ConfigError
from fwp_rl.runs.metrics import MetricsLogger, read_metrics
from fwp_rl.runs.views import check_logger, open_view

wandb = pytest.importorskip("wandb", reason="pip install -e '.[wandb]', as .ci/run does")


@pytest.fixture(autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")  # where nobody is logged in
    for name in ("HOME", "XDG_CONFIG_HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where W&B looks for a login. It reads the environment once, when it starts."""
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "online")
    yield
    wandb.teardown()


def records(directory: Path) -> list[Any]:
    """All that offline runs have kept: log blocks of 32 KiB, as LevelDB has them."""
    found = []
    for file in sorted(directory.glob("wandb/offline-run-*/*.wandb")):
        data, at, parts = file.read_bytes(), 7, b""
        while len(data) - at >= 7:
            if (left := 32768 - at % 32768) < 7:
                at += left
                continue
            _, size, kind = struct.unpack_from("<IHB", data, at)
            parts += data[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # whole, or the last part
                found.append(wandb.proto.wandb_internal_pb2.Record.FromString(parts))
                parts = b""
    return found


def history(directory: Path) -> list[dict[str, Any]]:
    rows = [record.history.item for record in records(directory) if record.HasField("history")]
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row}
        for row in rows
    ]


def test_it_gets_metrics_config_texts_and_clips(tmp_path: Path, clip: Path) -> None:
    view = open_view("wandb", tmp_path, config={"seed": 3})
    view.scalars(10, {"policy/entropy": 1.5, "loss/value": float("nan")})
    view.scalars(20, {"evaluation/mean_return": 3.0})
    view.text("evaluation", "**good**")
    view.clip(20, "evaluation/clip", clip)
    view.close()
    metrics, score, film = history(tmp_path)
    assert (metrics["step"], metrics["policy/entropy"]) == (10, 1.5)
    assert (score["step"], score["evaluation/mean_return"]) == (20, 3.0)
    assert film["step"] == 20
    (copied,) = tmp_path.glob("wandb/offline-run-*/files/media/**/*.gif")
    assert copied.read_bytes() == clip.read_bytes()
    kept = records(tmp_path)
    runs = [record.run for record in kept if record.HasField("run")]
    assert {(run.project, run.display_name) for run in runs} == {("fwp_rl", tmp_path.name)}
    assert {"seed": "3"}.items() <= {u.key: u.value_json for u in runs[0].config.update}.items()
    defined = {r.metric.name or r.metric.glob_name: r.metric for r in kept if r.HasField("metric")}
    assert defined["*"].step_metric == "step"
    texts = [u for r in kept if r.HasField("summary") for u in r.summary.update]
    assert any(json.loads(u.value_json) == "**good**" for u in texts)


def test_a_resumed_run_goes_on_under_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "5ec2e7" * 7)
    ids = set()
    for project in ("fwp_rl", "mine"):
        with MetricsLogger(tmp_path, logger="wandb") as logger:
            logger.log(1, {"loss/value": 1.0})
        runs = [record.run for record in records(tmp_path) if record.HasField("run")]
        assert runs[-1].project == project
        ids |= {run.run_id for run in runs}
        monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert ids == set(json.loads((tmp_path / "wandb.json").read_text()).values())
    assert not list(tmp_path.glob("events.*"))
    assert not any(b"5ec2e7" in f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())


def test_a_damaged_id_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "wandb.json").write_text('{"id": ')
    MetricsLogger(tmp_path, logger="wandb").close()
    assert json.loads((tmp_path / "wandb.json").read_text())["id"]


def test_an_id_that_is_none_costs_the_view_alone(tmp_path: Path) -> None:
    (tmp_path / "wandb.json").write_text('{"id": "a/b"}')
    said: list[str] = []
    with MetricsLogger(tmp_path, logger="wandb", warn=said.append) as logger:
        logger.log(1, {"x": 1})
    (warning,) = said
    assert "Weights & Biases can no longer be written" in warning


KILLED = """
import os, signal, sys
from pathlib import Path
from fwp_rl.runs.metrics import MetricsLogger

def is_service(process):
    try:
        parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
        return int(parent) == os.getpid() and b"wandb-core" in (process / "cmdline").read_bytes()
    except OSError:  # it has ended meanwhile
        return False

with MetricsLogger(Path(sys.argv[1]), logger="wandb", warn=print) as logger:
    logger.log(1, {"x": 1})
    # not ps: it may cut a long command line, or be missing
    (service,) = [int(p.name) for p in Path("/proc").glob("[0-9]*") if is_service(p)]
    os.kill(service, signal.SIGKILL)
    os.waitpid(service, 0)
    for step in (2, 3):
        logger.log(step, {"x": 1})
"""


@pytest.mark.slow
def test_a_service_that_dies_costs_the_view_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]  # its wandb is of no use any more
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    (warning,) = done.stdout.splitlines()
    assert "Weights & Biases can no longer be written" in warning
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.usefixtures("online")
def test_without_a_login_a_first_start_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ConfigError, match=r"wandb login.*WANDB_MODE=offline"):
        check_logger("wandb")
    with pytest.raises(SystemExit):
        main(["train", "recall", "--logger", "wandb", "--run-dir", str(tmp_path / "run")])
    assert "WANDB_MODE=offline" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("online")
def test_without_a_login_a_resumed_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    said: list[str] = []
    with MetricsLogger(tmp_path, logger="wandb", start_step=5, warn=said.append) as logger:
        logger.log(6, {"x": 1})
    (warning,) = said
    assert "wandb login" in warning


def test_a_cell_of_a_grid_stands_in_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(
        "preset: recall\naxes: {core: [lstm], reward_clip: [none], seed: [7]}"
    )
    grid = load_grid(tmp_path / "mine.yaml")
    for name, value in wandb_environment(grid, grid.cells[0]).items():
        monkeypatch.setenv(name, value)
    open_view("wandb", tmp_path).close()
    (run,) = [record.run for record in records(tmp_path) if record.HasField("run")][:1]
    assert (run.run_group, run.job_type) == ("mine", "lstm-none")
    assert set(run.tags) == {"core=lstm", "reward_clip=none", "seed=7"}
