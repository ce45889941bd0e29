"""The report: what it reads, what it says, and that the page needs nothing beside it."""

import json
import re
from pathlib import Path

import pytest

from fwp_rl.cli import main
from fwp_rl.config import ConfigError
from fwp_rl.cores import CORES
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.reports.figures import DARK, LIGHT, Styles
from fwp_rl.reports.page import write_report
from fwp_rl.reports.records import read_records

from .conftest import MakeRun, Parsed, evaluation, rows


def test_a_page_holds_all_it_needs(tmp_path: Path, make_run: MakeRun) -> None:
    for core in ("delta_net", "lstm"):
        for task in ("Catch", "Breakout"):
            for seed in range(1, 6):
                make_run(core, task, seed, score=seed / 10 + (core == "delta_net"))
    records = read_records([tmp_path / "runs"])
    folder = tmp_path / "report"
    path = write_report(records, folder, title="<script>alert(1)</script> & more")
    page = Parsed(path.read_text())
    assert page.open == []
    assert "<script>alert(1)</script> & more" in page.text  # as text, not as a tag
    for tag, address in page.addresses:
        if tag == "a":
            assert address.startswith("#") or (folder / address).exists(), address
        else:
            assert address.startswith("data:"), address
    for name in ("curves", "aggregates", "profiles", "improvement"):
        assert (folder / "figures" / f"{name}.png").read_bytes()[1:4] == b"PNG"
        assert b"<svg" in (folder / "figures" / f"{name}.svg").read_bytes()
        assert f'id="{name}"' in path.read_text()
    assert "No intervals" not in page.text
    (delta,) = [
        r for r in rows(folder, "scores") if (r["task"], r["variant"]) == ("Catch-v0", "delta_net")
    ]
    spread = [float(delta[name]) for name in ("n", "value", "lowest", "highest")]
    assert spread == pytest.approx([5, 1.3, 1.1, 1.5])
    assert 1.1 < float(delta["low"]) < 1.3 < float(delta["high"]) < 1.5
    assert float(delta["normalised"]) == pytest.approx((1.3 + 1) / 2)  # Catch: -1 to 1
    assert {r["variant"] for r in rows(folder, "costs")} == {"delta_net", "lstm"}
    assert any(r["value"] == "classic" for r in rows(folder, "what_was_run"))
    assert len(rows(folder, "runs")) == 20
    (differs,) = [r for r in rows(folder, "differences") if r["value"] == "lstm"]
    assert (differs["field"], differs["of"]) == ("core.name", "lstm")


def test_few_seeds_have_points_and_the_sentence_why(tmp_path: Path, make_run: MakeRun) -> None:
    for core in ("delta_net", "lstm"):
        for seed in (1, 2):
            make_run(core, seed=seed)
    path = write_report(read_records([tmp_path / "runs"]), tmp_path / "out", title="few")
    assert "No intervals" in Parsed(path.read_text()).text
    assert not (tmp_path / "out" / "figures" / "improvement.png").exists()


def test_what_is_no_run_is_named_and_left_out(
    tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    good, corrupt, unknown = make_run(), make_run("lstm"), make_run("gru")
    (corrupt / "status.json").write_text("{")
    config = unknown / "config.yaml"
    config.write_text(config.read_text().replace("name: gru", "name: of_tomorrow"))
    foreign = tmp_path / "runs" / "holiday-pictures"
    foreign.mkdir()
    main(["report", str(tmp_path / "runs"), "-o", str(tmp_path / "out")])
    said = capsys.readouterr().err
    page = Parsed((tmp_path / "out" / "report.html").read_text()).text
    for path in (unknown, foreign):
        assert f"left out: {path}" in said
        assert path.name in page
    kept = {r["directory"] for r in rows(tmp_path / "out", "runs")}
    assert kept == {good.name, corrupt.name}, "a status says nothing that a report needs"


def test_nothing_to_report_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such run directory"):
        read_records([tmp_path / "nowhere"])


def test_the_score_is_the_last_checkpoints_and_never_a_better_one(make_run: MakeRun) -> None:
    run = make_run(score=0.1)
    others = {
        "best": evaluation("Catch", 0.9, step=1000, checkpoint="best"),
        "greedy": evaluation("Catch", 0.8, step=1000, actions="greedy"),
        "earlier": evaluation("Catch", 0.7, step=500),
        "damaged": {"protocol": 3},
    }
    for name, result in others.items():
        (run / "evaluations" / f"{name}.json").write_text(json.dumps(result))
    (run / "evaluations" / "torn.json").write_text("{")
    (record,) = read_records([run]).runs
    assert record.score is not None
    assert record.score.mean == 0.1


def test_runs_without_a_score_are_named(tmp_path: Path, make_run: MakeRun) -> None:
    make_run()
    make_run("lstm", score=None)
    path = write_report(read_records([tmp_path / "runs"]), tmp_path / "out", title="t")
    assert "Catch-lstm-s1" in Parsed(path.read_text()).text


def test_runs_of_one_core_that_differ_are_told_apart(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(seed=1, discount=0.9)
    make_run(seed=2, discount=0.99)
    assert read_records([tmp_path / "runs"]).labels == [
        "delta_net (discount 0.9)",
        "delta_net (discount 0.99)",
    ]


def test_an_ablations_labels_are_taken_over(make_run: MakeRun, tmp_path: Path) -> None:
    folder = tmp_path / "ablation"
    run = make_run(folder=folder)
    labels = {"core": "small", "horizon": "cut", "core.bias": "-1", "task": "fetch", "seed": "1"}
    (folder / "ablation.json").write_text(
        json.dumps({"schema": 1, "cells": [{"name": "x", "run": run.name, "labels": labels}]})
    )
    (record,) = read_records([folder]).runs
    assert (record.label, record.task) == ("small, cut, bias -1", "fetch")


def make_ablation(folder: Path, runs: dict[Path, dict[str, str]]) -> Path:
    cells = [{"name": r.name, "run": r.name, "labels": labels} for r, labels in runs.items()]
    (folder / "ablation.json").write_text(json.dumps({"schema": 1, "cells": cells}))
    return folder


@pytest.mark.parametrize("seed_first", [True, False])
def test_a_seed_that_is_written_like_another_axis_value_splits_no_variant(
    seed_first: bool, make_run: MakeRun, tmp_path: Path
) -> None:
    runs = {}
    for heads in (1, 2):
        for layers in (1, 2):
            for seed in (1, 2):
                run = make_run(
                    seed=seed,
                    folder=tmp_path / "grid" / f"h{heads}l{layers}",
                    core_config=DeltaNetConfig(heads=heads, layers=layers),
                )
                run = run.rename(tmp_path / "grid" / f"{heads}-{layers}-{seed}")
                labels = {"core.heads": str(heads), "core.layers": str(layers)}
                seeds = {"seed": str(seed)}
                runs[run] = {**seeds, **labels} if seed_first else {**labels, **seeds}
    records = read_records([make_ablation(tmp_path / "grid", runs)])
    assert {label: [run.seed for run in records.of(label)] for label in records.labels} == {
        f"heads {heads}, layers {layers}": [1, 2] for heads in (1, 2) for layers in (1, 2)
    }


def test_how_a_run_was_made_splits_no_variant(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(seed=1)
    make_run(seed=2, logger="wandb", device="cuda:3", checkpoint_minutes=1.0)
    make_run(seed=3, evaluation_games=500, video=False, plain=True, run_dir="elsewhere")
    assert read_records([tmp_path / "runs"]).labels == ["delta_net"]


def test_games_and_step_stand_beside_a_score(make_run: MakeRun, tmp_path: Path) -> None:
    run, other = make_run(), make_run(seed=2)
    more = evaluation("Catch", 0.75, step=1000, games=1200)
    (run / "evaluations" / "more.json").write_text(json.dumps(more))
    write_report(read_records([run, other]), tmp_path / "out", title="t")
    by_seed = {row["seed"]: row for row in rows(tmp_path / "out", "runs")}
    evaluated = ("value", "games", "evaluated_step")
    assert [by_seed["1"][c] for c in evaluated] == ["0.75", "1200", "1000"]
    assert [by_seed["2"][c] for c in evaluated] == ["0.5", "30", "1000"]
    (both,) = rows(tmp_path / "out", "scores")
    assert [both[c] for c in ("games_min", "games_max", "step_min", "step_max")] == [
        *("30", "1200", "1000", "1000")
    ]


def test_published_scores_stand_beside_the_same_protocol_only(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(task="Breakout")
    write_report(read_records([run]), tmp_path / "without", title="t")
    assert not (tmp_path / "without" / "tables" / "published.csv").exists()
    paper = evaluation("Breakout", 7.0, step=1000) | {
        "protocol": {"name": "paper", "checkpoint": "last", "actions": "greedy"},
        "summary": {"mean": 7.0, "std_of_run_means": 0.5},
    }
    (run / "evaluations" / "paper.json").write_text(json.dumps(paper))
    write_report(read_records([run]), tmp_path / "with", title="t")
    (row,) = rows(tmp_path / "with", "published")
    assert (row["value"], row["std"], row["source"]) == ("7.0", "0.5", "none found")
    (record,) = read_records([run]).runs
    assert record.score is not None
    assert record.score.mean == 0.5


def test_every_core_has_a_style_of_its_own() -> None:
    styles = Styles(sorted(CORES))
    for theme in (LIGHT, DARK):
        kinds = {(s["color"], s["linestyle"]) for s in (styles.of(c, theme) for c in CORES)}
        assert len(kinds) == len(CORES)
        assert all(re.fullmatch(r"#[0-9A-Fa-f]{6}", color) for color, _ in kinds)
