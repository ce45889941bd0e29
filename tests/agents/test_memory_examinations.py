"""What a memory is good for: what PPO learns with and without one, in the same steps.

``long``: five minutes on 2 quiet cores. Run it with FWP_RL_OUTPUT=FOLDER to keep its curves and
figures; runs that are finished there are not repeated. The recall task in ``test_ppo.py`` is its
quick twin.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fwp_rl.reports.plots import compare_learning_curves
from fwp_rl.training.loggers import read_metrics

STEPS = 500_000  # later even no memory learns a little: see docs/benchmarks/minigrid_memory.md
CORES = {
    "delta_net": (),
    "lstm": ("core:lstm", "--core.hidden-size=128"),
    "feedforward": ("core:feedforward",),
}
RUNS = [("delta_net", 1), ("delta_net", 2), ("delta_net", 3), ("lstm", 1), ("feedforward", 1)]


def train_and_evaluate(core: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train the preset in a process of one thread; returns its evaluation over 500 episodes."""
    run = folder / f"{core}-{seed}"
    command = [
        *(sys.executable, "-m", "fwp_rl", "train", "minigrid_memory", *CORES[core]),
        *(f"--seed={seed}", f"--total-steps={STEPS}", f"--run-dir={run}", "--no-video", "--plain"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if not list((run / "evaluations").glob("*.json")):
        with (folder / f"{core}-{seed}.log").open("w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env=environment)
    (file,) = (run / "evaluations").glob("*.json")
    result: dict[str, Any] = json.loads(file.read_text())
    return result


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
def test_only_a_memory_solves_minigrid_memory(tmp_path: Path) -> None:
    folder = Path(os.environ.get("FWP_RL_OUTPUT", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda run: train_and_evaluate(*run, folder), RUNS))
    success = {run: result["summary"]["success"] for run, result in zip(RUNS, results, strict=True)}
    curves = {
        core: [read_metrics(folder / f"{c}-{s}" / "metrics.jsonl") for c, s in RUNS if c == core]
        for core in CORES
    }
    picture = compare_learning_curves(
        curves,
        title="MiniGrid-MemoryS9-v0, PPO: one line for each seed",
        metric="charts/success_rate",
        label="success in the last 100 episodes",
    )
    (folder / "minigrid_memory.png").write_bytes(picture)
    rows = [
        {"core": core, "seed": seed, "steps": result["step"], **success[core, seed]}
        for (core, seed), result in zip(RUNS, results, strict=True)
    ]
    (folder / "minigrid_memory.json").write_text(json.dumps(rows, indent=1) + "\n")
    assert sum(success["delta_net", seed]["rate"] >= 0.95 for seed in (1, 2, 3)) >= 2
    assert success["feedforward", 1]["interval"][1] < 0.65
