"""The page of associative retrieval, of runs that were never trained."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from fwp_rl.reports.retrieval import Published, Run, agreement, main, read_published
from fwp_rl.resources import configs_dir

PUBLISHED = Path(__file__).parents[2] / "docs" / "results" / "retrieval_published.csv"


def make(folder: Path, loss: float | None, *, seed: int = 1, stopped: str, **task: Any) -> None:
    folder.mkdir(parents=True)
    config = {
        "agent": "supervised",
        "task": {"name": "retrieval", **task},
        "core": "feedforward",
        "seed": seed,
    }
    result = {
        "schema": 1,
        "task": "retrieval",
        "step": 100,
        "steps": 1200,
        "stopped": stopped,
        "seconds": 30.0,
        "measure": "loss",
        "score": loss,
        "validation": {"loss": loss},
        "test": {"loss": loss},
        "size": {"parameters": 10, "core_inputs": None},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "result.json").write_text(json.dumps(result))


def test_the_page_sets_runs_beside_the_logs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    delta = {"setting": "update_rule", "symbols": 20}
    for seed, loss in enumerate((0.0009, 0.0007, 0.002), start=1):
        make(runs / f"d{seed}", loss, seed=seed, stopped="solved", **delta)
    make(runs / "sum", 0.110, stopped="time", **delta, rule="sum")
    make(runs / "far", 0.2, stopped="patience", symbols=60, feature_map="elu1")
    make(runs / "nan", None, stopped="diverged", symbols=20, feature_map="favor")
    make(runs / "core", 0.1, stopped="patience", memory="core")
    make(runs / "cut", 0.0008, stopped="solved", **{**delta, "symbols": 100}, feature_map="dpfp2")
    make(runs / "unknown", 0.1, stopped="patience", symbols=33)
    output = tmp_path / "retrieval.md"
    main([str(runs), "--output", str(output), "--published", str(PUBLISHED)])
    page = output.read_text()
    assert "Of 1 cells that the logs solve, 1 are solved here. Of 3 that they do not" in page
    assert "solve, 1 are not solved here either" in " ".join(page.split())
    assert "| delta, DPFP-1 | ✓ ✓ 0.002 / ✓ |  |" in page
    assert r"| sum, DPFP-1 | 0.110\* / 0.097 |  |" in page
    assert "| delta, DPFP-2 |  | ✓ / 0.085† |" in page
    assert "| sum, ELU + 1 |  | **0.200** / 0.025 |" in page
    assert "| sum, FAVOR+, m = 64 | **nan** / 0.117 |  |" in page
    assert " 7 runs, 0:03:30 of training" in " ".join(page.split())
    assert "1 of them ended by the clock" in page
    assert (tmp_path / "retrieval.png").read_bytes().startswith(b"\x89PNG")
    assert "examines a core" in capsys.readouterr().out


def run(loss: float) -> Run:
    return Run(seed=1, loss=loss, steps=1200, stopped="patience", seconds=1.0)


@pytest.mark.parametrize(
    ("log", "ours", "agree"),
    [
        ((0.001, 100), [0.001, 0.0005, 0.3], True),
        ((0.0009, 100), [0.0012, 0.3, 0.0005], False),
        ((0.3, 2000), [0.001], False),
        ((0.3, 2000), [0.21], True),
        ((0.3, 2000), [0.19], False),
        ((0.3, 2000), [0.46], False),
        ((0.3, 2000), [math.nan, math.nan, 0.3], False),
        ((math.nan, 1100), [math.nan], True),
        ((math.nan, 1100), [0.5], True),
        ((math.nan, 1100), [0.0001], False),
        ((0.0854, 300), [0.0001], None),
    ],
)
def test_agreement(log: tuple[float, int], ours: list[float], agree: bool | None) -> None:
    found = agreement(Published(loss=log[0], steps=log[1]), [run(loss) for loss in ours])
    assert found is agree


def test_the_grids_hold_what_was_published_and_no_more() -> None:
    from fwp_rl.ablation.grid import load_grid

    logs = read_published(PUBLISHED)
    assert len(logs) == 300
    for path in sorted((configs_dir() / "ablations").glob("retrieval_*.yaml")):
        for cell in load_grid(path).cells:
            task: Any = cell.config.task  # type: ignore[attr-defined]
            features = f"favor{task.favor_features}" if task.phi == "favor" else task.phi
            assert (task.setting, task.writes, features, task.symbols) in logs


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    output = str(tmp_path / "page.md")
    with pytest.raises(SystemExit, match=r"retrieval_published\.csv: cannot be read"):
        main([str(tmp_path), "--output", output])
    with pytest.raises(SystemExit, match="no run to report on"):
        main([str(tmp_path / "none"), "--output", output, "--published", str(PUBLISHED)])
    bad = tmp_path / "bad.csv"
    bad.write_text("setting,rule\ncapacity,sum\n")
    with pytest.raises(SystemExit, match="is no table of published losses"):
        main([str(tmp_path), "--output", output, "--published", str(bad)])
