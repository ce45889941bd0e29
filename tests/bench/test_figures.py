"""What rounds come to: medians, intervals, shares; and the tables made of them."""

import io
import random
from math import comb
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fwp_rl.bench.estimates import median, shown
from fwp_rl.bench.figures import figures, run_stages, stages
from fwp_rl.bench.pages import render, write_tables
from fwp_rl.bench.sheets import scaling_sheets, training_sheets
from fwp_rl.config import ConfigError
from fwp_rl.reports.stages import draw_stages
from fwp_rl.runs.files import write_json


@pytest.mark.parametrize("n", range(1, 41))
def test_the_interval_misses_in_one_case_of_twenty_at_most(n: int) -> None:
    """The chance that the k-th smallest of n lies above the median, and the next one's."""
    values = [float(x) for x in range(1, n + 1)]
    found = median(random.Random(n).sample(values, n))
    assert found.value == (n + 1) / 2

    def misses(k: int) -> float:
        return 2 * sum(comb(n, i) for i in range(k)) / 2**n

    if n < 6:
        assert found.interval is None
        assert f"{n} round" in str(found.reason)
        return
    assert found.interval is not None
    low, high = found.interval
    assert low + high == n + 1, "as far from either end"
    assert misses(int(low)) <= 0.05 < misses(int(low) + 1)
    assert shown(found, "{:.0f}").endswith(f"({low:.0f} to {high:.0f})")


def _result(rounds: int, *, actors: int = 0) -> dict[str, Any]:
    """As a benchmark of two cores writes it, of random numbers."""
    draw = random.Random(rounds).uniform
    names = ("feedforward", "recurrent_delta_net")

    def run() -> dict[str, float]:
        shares = {"acting": draw(0.1, 0.3), "environment": draw(0.1, 0.3), "learning": 0.3}
        return {"steps_per_second": draw(900, 1100), "seconds": draw(1.8, 2.2), **shares}

    def parts() -> dict[str, dict[str, float]]:
        return {
            part: {split: draw(0.2, 0.6) for split in ("one team", "2 apart")}
            for part in ("emulator", "acting", "learning")
        }

    result: dict[str, Any] = {
        **{"benchmark": "training", "agent": "ppo", "encoder": "nature_cnn", "game": "Pong"},
        **{"num_envs": 16, "unroll": 128, "passes": 4, "actors": actors, "bfloat16": True},
        **{"rounds": rounds, "beside_processes": 2},
        "machine": {"processor": "a processor", "cores": 2},
        **{"commit": "0123456789", "dirty": False, "date": "2026-11-28T09:00:00+00:00"},
        "runs": {name: [run() for _ in range(rounds)] for name in names},
        "floor": {name: [parts() for _ in range(rounds)] for name in names},
        "beside": {name: [run() for _ in range(rounds)] for name in names},
        "control": {
            "alone": [draw(90, 110) for _ in range(rounds)],
            "beside": [draw(45, 55) for _ in range(rounds)],
        },
    }
    return result | {"figures": figures(result)}


@pytest.mark.parametrize("rounds", [1, 6, 11])
def test_shares_are_those_of_the_parts(rounds: int) -> None:
    result = _result(rounds)
    for name, found in result["figures"].items():
        floor = found["floor"]
        ratios = [
            sum(parts[part][split] for part, split in floor["splits"].items()) / run["seconds"]
            for parts, run in zip(result["floor"][name], result["runs"][name], strict=True)
        ]
        assert floor["share"]["value"] == pytest.approx(median(ratios).value)
        for part, splits in floor["all_splits"].items():
            assert floor["parts"][part] == min(splits.values())
        for estimate in (floor["share"], *(found["beside"][k] for k in ("kept", "share"))):
            if rounds < 6:
                assert estimate["interval"] is None
            else:
                low, high = estimate["interval"]
                assert low <= estimate["value"] <= high


@pytest.mark.parametrize("actors", [0, 2])
def test_the_stages_of_a_run_fill_its_iteration(actors: int) -> None:
    result = _result(6, actors=actors)
    for found in result["figures"].values():
        of_stage = run_stages(found, actors=actors)
        assert sum(of_stage.values()) == pytest.approx(found["seconds"])
        assert ("other" in of_stage) == (actors == 0)
    bars = stages(result)
    assert list(bars)[:2] == ["feedforward", "feedforward: floor"]
    assert draw_stages(bars, title="An iteration", label="seconds").startswith(b"\x89PNG")


def test_the_tables_fit_a_terminal() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    for sheet in training_sheets(_result(10)):
        console.print(sheet.table())
        for row in sheet.rows:
            assert len(row) == len(sheet.columns)
    said = console.export_text()
    assert "…" not in said
    for words in ("recurrent_delta_net", "learning, 4 passes", "Beside 2 busy processes", "other"):
        assert words in said


def test_growth_is_linear_in_the_table_and_a_failure_says_how() -> None:
    cells = [
        {
            **{"num_envs": n, "unroll": unroll, "steps_per_second": 1000.0},
            "peak_memory": 400e6 + 90e3 * n * unroll,
        }
        for n in (8, 32)
        for unroll in (16, 64)
    ]
    failed = {"num_envs": 256, "unroll": 512, "failed": "the process was ended by SIGKILL"}
    task = {"agent": "ppo", "encoder": "nature_cnn", "game": "Pong", "core": "delta_net"}
    (sheet,) = scaling_sheets({**task, "bfloat16": False, "cells": [*cells, failed]})
    assert [row[-1] for row in sheet.rows] == ["", "90", "90", "90", ""]
    assert sheet.rows[-1][:3] == ["256", "512", "failed"]
    assert "256 x 512 failed: the process was ended by SIGKILL." in sheet.note
    (sheet,) = scaling_sheets({**task, "bfloat16": False, "cells": [failed]})
    assert len(sheet.rows) == 1


def test_a_page_is_made_anew(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    places = "# A page\n\n<!-- tables of {} -->\nold\n<!-- end of tables -->\n\nWords.\n"
    page.write_text(places.format("results/training.json"))
    assert write_tables(page) == ["results/training.json"]
    assert "Not measured yet." in page.read_text()

    result = _result(7)
    write_json(tmp_path / "results" / "training.json", result)
    assert write_tables(page) == []
    made = page.read_text()
    assert made.startswith("# A page\n")
    assert made.endswith("Words.\n")
    assert "old" not in made
    assert "Not measured" not in made
    assert "a processor, 2 cores, 2026-11-28, commit 0123456: [results/training.json]" in made
    for sheet in training_sheets(result):
        assert sheet.markdown() in made
    assert write_tables(page) == []
    assert page.read_text() == made, "once more changes nothing"


def test_the_page_of_this_project_has_the_tables_of_its_results() -> None:
    page = Path(__file__).parents[2] / "docs" / "performance.md"
    text = page.read_text()
    assert render(text, page)[0] == text, "fwp-rl bench tables docs/performance.md"


def test_a_page_that_cannot_be_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    with pytest.raises(ConfigError, match=r"page\.md: cannot be read: No such file"):
        write_tables(page)
    page.write_text("# No place\n")
    with pytest.raises(ConfigError, match="has no place for tables"):
        write_tables(page)
    page.write_text("<!-- tables of x.json -->\n<!-- end of tables -->\n")
    write_json(tmp_path / "x.json", {"benchmark": "kernels"})
    with pytest.raises(ConfigError, match=r"x\.json is no result of fwp-rl bench training"):
        write_tables(page)
