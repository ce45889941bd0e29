"""What a memory is good for: what PPO and IMPALA learn with and without one, in the same steps.

``long``: five minutes for PPO and ten for IMPALA on 2 quiet cores. Run it with
FWP_RL_OUTPUT=FOLDER to keep its curves and figures; runs that are finished there are not repeated.
The recall tasks in ``test_ppo.py`` and ``test_impala.py`` are its quick twins.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fwp_rl.reports.plots import compare_learning_curves
from fwp_rl.runs.metrics import read_metrics

CORES = {
    "delta_net": (),
    "lstm": ("core:lstm", "--core.hidden-size=128"),
    "feedforward": ("core:feedforward",),
}


@dataclass(frozen=True)
class Examination:
    title: str
    preset: str
    flags: tuple[str, ...]
    runs: tuple[tuple[str, int], ...]
    """Core and seed."""
    no_memory_below: float
    """Bound on the 95 % interval of feedforward's success. The task leaks: the longer it trains,
    the more it finds (docs/benchmarks/minigrid_memory.md)."""


PPO = Examination(
    title="PPO",
    preset="minigrid_memory",
    flags=("--total-steps=500_000",),
    runs=(
        *(("delta_net", 1), ("delta_net", 2), ("delta_net", 3)),
        *(("lstm", 1), ("feedforward", 1)),
    ),
    no_memory_below=0.65,
)
IMPALA = Examination(
    title="IMPALA",
    preset="impala_minigrid_memory",
    flags=("--actors.kind=inline",),  # a run on one core, the same each time
    runs=(("delta_net", 1), ("delta_net", 2), ("delta_net", 3), ("feedforward", 1)),
    no_memory_below=0.85,
)


def train_and_evaluate(
    examination: Examination, core: str, seed: int, folder: Path
) -> dict[str, Any]:
    """Train the preset in a process of one thread; returns its evaluation over 500 episodes."""
    run = folder / f"{core}-{seed}"
    command = [
        *(sys.executable, "-m", "fwp_rl", "train", examination.preset, *CORES[core]),
        *(*examination.flags, f"--seed={seed}", f"--run-dir={run}", "--no-video", "--plain"),
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
@pytest.mark.parametrize("examination", [PPO, IMPALA], ids=lambda e: e.title)
def test_only_a_memory_solves_minigrid_memory(examination: Examination, tmp_path: Path) -> None:
    name, runs = examination.preset, examination.runs
    folder = Path(os.environ.get("FWP_RL_OUTPUT", tmp_path)) / name
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda run: train_and_evaluate(examination, *run, folder), runs))
    success = {run: result["summary"]["success"] for run, result in zip(runs, results, strict=True)}
    curves = {
        core: [read_metrics(folder / f"{core}-{seed}" / "metrics.jsonl") for seed in seeds]
        for core in CORES
        if (seeds := [seed for c, seed in runs if c == core])
    }
    picture = compare_learning_curves(
        curves,
        title=f"MiniGrid-MemoryS9-v0, {examination.title}: one line for each seed",
        metric="charts/success_rate",
        label="success in the last 100 episodes",
    )
    (folder / f"{name}.png").write_bytes(picture)
    rows = [
        {"core": core, "seed": seed, "steps": result["step"], **success[core, seed]}
        for (core, seed), result in zip(runs, results, strict=True)
    ]
    (folder / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    assert sum(success["delta_net", seed]["rate"] >= 0.95 for seed in (1, 2, 3)) >= 2
    assert success["feedforward", 1]["interval"][1] < examination.no_memory_below
