"""The page of which core can do which sequence task, from runs that the trainer made."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from fwp_rl.agents.supervised import SupervisedConfig
from fwp_rl.config import ConfigError
from fwp_rl.cores import CORES
from fwp_rl.reports import diagnostics
from fwp_rl.reports.diagnostics import panels, read_examinations
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.tasks import TASKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cores on two tasks, a few steps each, and all of it again as of another seed, with other
    scores; one run that has not ended."""
    path = tmp_path_factory.mktemp("runs")
    options = {"length": 4, "test_lengths": (1, 2), "test_sequences": 8, "validation_sequences": 8}
    for core, size in (("feedforward", {}), ("gru", {"hidden_size": 8})):
        for task, steps in (("parity", {}), ("modular_counting", {"steps": "signs"})):
            run = SupervisedConfig(
                task=TASKS[task](**options, **steps, embedding_size=8),
                core=CORES[core](**size),
                total_steps=2,
                batch_size=4,
                seed=1,
                run_dir=str(path / f"{core}-{task}-1"),
                plain=True,
                device="cpu",
            ).train()
            other = path / f"{core}-{task}-2"
            shutil.copytree(run, other)
            config = RunDirectory(other).config
            config.write_text(config.read_text().replace("seed: 1\n", "seed: 2\n"))
            result = json.loads((other / "result.json").read_text())
            result["test"]["accuracy"] = result["score"] = 0.75
            (other / "result.json").write_text(json.dumps(result))
    (path / "gru-parity-2" / "result.json").unlink()
    return path


def test_every_run_that_has_ended_is_read(folder: Path) -> None:
    runs, skipped = read_examinations([folder])
    assert len(runs) == 7
    assert skipped == {str(folder / "gru-parity-2"): "has no result"}
    assert sorted(run.seed for run in runs) == [1, 1, 1, 1, 2, 2, 2]
    assert {run.core for run in runs} == {"feedforward", "gru"}
    assert {run.task for run in runs} == {"parity", "modular_counting 5, signs"}
    for run in runs:
        assert run.score == run.result.test["accuracy"]
        assert run.longest == run.result.test["accuracy_at_8"]
        assert run.chance is not None
        assert run.longest_chance is not None
        assert (run.chance > run.longest_chance) == (run.task == "modular_counting 5, signs")


def test_runs_that_cannot_be_told_apart_are_not_pooled(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(folder / "gru-parity-1", tmp_path / name)
    runs, skipped = read_examinations([tmp_path])
    assert len(runs) == 1
    assert skipped == {str(tmp_path / "two"): "another run has its core, task and seed"}


def test_an_ablations_labels_name_cores_and_tasks(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "gru-parity-1", tmp_path / "cell")
    labels = {"core": "small gru", "task": "easy", "seed": "1"}
    cells = [{"name": "cell", "run": "cell", "labels": labels}]
    (tmp_path / "ablation.json").write_text(json.dumps({"cells": cells}))
    ((run,), _) = read_examinations([tmp_path])
    assert (run.core, run.task, run.seed) == ("small gru", "easy", 1)


def test_a_panel_holds_every_seed_of_every_square(folder: Path) -> None:
    runs, _ = read_examinations([folder])
    short, long = panels(runs)
    for panel in (short, long):
        assert panel.cores == ["feedforward", "gru"]
        assert set(panel.tasks) == {"parity", "modular_counting 5, signs"}
        assert {key: len(scores) for key, scores in panel.scores.items()} == {
            (core, task): 1 if (core, task) == ("gru", "parity") else 2
            for core in panel.cores
            for task in panel.tasks
        }
    assert short.chance["parity"] == 0.5
    assert short.scores["gru", "parity"] == [
        run.score for run in runs if (run.core, run.task) == ("gru", "parity")
    ]


def test_the_page_has_the_means_the_runs_and_a_picture(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    runs, _ = read_examinations([folder])
    page = tmp_path / "results" / "diagnostics.md"
    monkeypatch.setattr(sys, "argv", ["diagnostics", str(folder), "--output", str(page)])
    diagnostics.main()
    text = page.read_text()
    assert (tmp_path / "results" / "diagnostics.png").read_bytes()[1:4] == b"PNG"
    assert "](diagnostics.png)" in text
    assert "7 runs: 2 cores, 2 tasks, 1 to 2 seeds each" in text
    row = next(line for line in text.splitlines() if line.startswith("| feedforward |"))
    mean = sum(r.score for r in runs if (r.core, r.task) == ("feedforward", "parity")) / 2
    assert f"{mean:.3f} → " in row
    assert "| chance |" in text
    assert len(re.findall(r"\| (?:parity|modular_counting 5, signs) \| [12] \|", text)) == 7
    assert "gru-parity-2: has no result" in text


def test_the_rings_lie_where_the_seeds_scores_are(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    shown = panels(read_examinations([folder])[0])
    made = diagnostics.figure_heat_map(shown)(diagnostics.LIGHT)
    axes = made.axes[0]
    rings = [line for line in axes.lines if line.get_marker() == "o"]
    assert len(rings) == len(shown[0].scores)
    for line, scores in zip(rings, shown[0].scores.values(), strict=True):
        column = round(line.get_xdata().mean() - 0.42 * (2 * sum(scores) / len(scores) - 1))
        assert line.get_xdata() == pytest.approx([column - 0.42 + 0.84 * s for s in scores])


def test_a_folder_without_such_runs_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="no run to report on"):
        read_examinations([tmp_path])
    page = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["diagnostics", str(tmp_path), "--output", str(page)])
    with pytest.raises(SystemExit, match="no run to report on"):
        diagnostics.main()
    assert not page.exists()
