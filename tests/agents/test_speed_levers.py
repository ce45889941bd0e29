"""Learning is not traded for speed: the levers that make an update faster, against none of them.

``long``: about an hour on 2 slow cores. Run it with FWP_RL_OUTPUT=FOLDER to keep the runs of the
grid ``speed_levers`` and the figures; runs that are finished there are not repeated. How runs
with and without shards differ in their bits, and nothing else, is tested in
``tests/training/test_descent.py``.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fwp_rl.ablation.folder import AblationFolder
from fwp_rl.ablation.grid import load_grid
from fwp_rl.bench.estimates import median
from fwp_rl.runs.metrics import Row, read_metrics

GRID = "speed_levers"
SOLVED = {"MemoryS9": 0.95, "Catch": 0.95}
"""Success rate, and mean return, of the evaluation after training."""


def curve(rows: list[Row], name: str) -> tuple[list[float], list[float]]:
    points = [(row["step"], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
    steps, values = zip(*points, strict=True)
    return list(steps), list(values)


def area(rows: list[Row], name: str, start: float, end: float) -> float:
    """Mean of a curve between two steps, with straight lines between its points."""
    steps = np.linspace(start, end, 2000)
    return float(np.interp(steps, *curve(rows, name)).mean())


@pytest.mark.long
@pytest.mark.timeout(6 * 3600)
def test_the_curves_with_and_without_levers_have_the_same_area(tmp_path: Path) -> None:
    folder = Path(os.environ.get("FWP_RL_OUTPUT", tmp_path)) / GRID
    command = [sys.executable, "-m", "fwp_rl", "ablate", GRID, "--jobs", "2", "--threads", "1"]
    subprocess.run([*command, "--output", str(folder), "--plain"], check=True)
    found = compare(folder)
    (folder / f"{GRID}.json").write_text(json.dumps(found, indent=1) + "\n")
    for task, result in found.items():
        low, high = result["area"]["interval"]
        assert low <= 0 <= high, (task, result)
        assert abs(result["solved"]["levers"] - result["solved"]["plain"]) <= 2, (task, result)


def compare(folder: Path) -> dict[str, Any]:
    """Task → levers against plain, seed by seed: median difference of the areas under the curves of
    the training return with its 95 % interval, seeds solved, largest ratio_deviation."""
    grid, runs = load_grid(GRID), AblationFolder(folder)
    rows: dict[tuple[str, str, str], list[Row]] = {}
    scores: dict[tuple[str, str, str], float] = {}
    for cell in grid.cells:
        key = (cell.labels["task"], cell.labels["speed"], cell.labels["seed"])
        rows[key] = read_metrics(runs.run(cell).metrics)
        score = runs.score(cell)
        assert score is not None
        success = score.result["summary"]["success"]
        scores[key] = score.mean if success is None else success["rate"]
    seeds = list(dict.fromkeys(seed for _, _, seed in rows))
    found = {}
    for task in dict.fromkeys(task for task, _, _ in rows):
        differences = []
        for seed in seeds:
            pair = [rows[task, speed, seed] for speed in ("levers", "plain")]
            metric = "charts/episode_return"
            start = max(curve(one, metric)[0][0] for one in pair)
            end = min(curve(one, metric)[0][-1] for one in pair)
            levers, plain = (area(one, metric, start, end) for one in pair)
            differences.append(levers - plain)
        estimate = median(differences)
        found[task] = {
            "area": {
                "median": estimate.value,
                "interval": estimate.interval,
                "mean": float(np.mean(differences)),
                "differences": differences,
            },
            "solved": {
                speed: sum(scores[task, speed, seed] >= SOLVED[task] for seed in seeds)
                for speed in ("levers", "plain")
            },
            "seeds": len(seeds),
            "scores": {
                speed: [scores[task, speed, seed] for seed in seeds]
                for speed in ("levers", "plain")
            },
            "ratio_deviation": {
                speed: max(
                    row.get("policy/ratio_deviation", 0.0)
                    for seed in seeds
                    for row in rows[task, speed, seed]
                )
                for speed in ("levers", "plain")
            },
        }
    return found
