"""Runs of version 0.1.0 are read, played, reported on and resumed.

tests/data/version_0.1.0 holds what ``fwp-rl train`` of that version left, without pictures, event
files and the first checkpoint: the recall task with a small delta net, 2,000 steps, 32 games of
evaluation.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

import fwp_rl
from fwp_rl import agents
from fwp_rl.cli import main
from fwp_rl.evaluation import evaluate
from fwp_rl.reports.records import read_records
from fwp_rl.runs.checkpoint import load_checkpoint
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.metrics import read_metrics
from fwp_rl.runs.presets import config_to_dict, read_yaml
from fwp_rl.runs.results import score

OLD = Path(__file__).parents[1] / "data" / "version_0.1.0"
STEP = 2018
"""Of the last checkpoint: dummy steps do not count."""


@pytest.fixture(params=["ppo", "impala"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / str(request.param)
    shutil.copytree(OLD / str(request.param), path)
    return path


def test_its_config_means_what_it_meant(run: Path) -> None:
    stored = read_yaml(run / "config.yaml")
    now = config_to_dict(agents.load_preset(run / "config.yaml"))
    assert {name: now[name] for name in stored if name not in ("core", "env", "encoder")} == {
        name: value for name, value in stored.items() if name not in ("core", "env", "encoder")
    }
    for section in ("core", "env", "encoder"):
        assert stored[section].items() <= now[section].items()


def test_its_policy_is_that_of_its_last_checkpoint(run: Path) -> None:
    policy = fwp_rl.load_policy(run)  # recomputes the probe that was stored
    checkpoint = load_checkpoint(run / "checkpoints" / f"step_{STEP:012}")
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, checkpoint.policy[name]), name


def test_it_plays_the_games_that_it_played(run: Path) -> None:
    [file] = (run / "evaluations").glob("*.json")
    then = json.loads(file.read_text())
    now = evaluate(run, games=32)
    assert (now["step"], now["returns"], now["lengths"]) == (STEP, then["returns"], then["lengths"])


def test_its_report(run: Path, tmp_path: Path) -> None:
    found = score(RunDirectory.open(run))
    assert found is not None
    assert (found.mean, found.games, found.step) == (0.21875, 32, STEP)
    (record,) = read_records([run]).runs
    assert (record.label, record.task, record.seed) == ("delta_net", "recall", 3)
    assert record.score is not None
    assert (record.score.mean, record.score.games, record.step) == (found.mean, 32, STEP)
    main(["report", str(run), "-o", str(tmp_path / "report")])
    assert ",0.21875," in (tmp_path / "report" / "tables" / "scores.csv").read_text()


def test_it_is_resumed(run: Path) -> None:
    before = read_metrics(run / "metrics.jsonl")
    more = ["--total-steps", "2600", "--evaluation-games", "16", "--no-video", "--plain"]
    main(["train", "--resume", str(run), *more])
    rows = read_metrics(run / "metrics.jsonl")
    assert rows[: len(before)] == before
    assert rows[-1]["step"] >= 2600
    assert rows[len(before)]["charts/games"] >= before[-1]["charts/games"]
    found = score(RunDirectory.open(run))
    assert found is not None
    assert found.games == 16, "the old evaluation is of an earlier checkpoint"
    assert json.loads((run / "status.json").read_text())["started"].startswith("2026-11-28T02")
