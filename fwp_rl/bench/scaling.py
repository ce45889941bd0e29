"""``fwp-rl bench scaling``: speed and memory of training over environments and unroll lengths."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from fwp_rl.bench.processes import MeasurementError
from fwp_rl.bench.runs import Task, task_config
from fwp_rl.bench.sheets import scaling_sheets
from fwp_rl.bench.training import check_outputs, circumstances, measured
from fwp_rl.runs.files import write_json

__all__ = ["GRID", "QUICK", "bench_scaling"]

Grid = tuple[tuple[int, ...], tuple[int, ...]]

GRID: Final[Grid] = ((8, 64, 256), (16, 64, 512))
"""Environments, and steps of an unroll: some 400,000 steps in all, 7 minutes at 1,000 steps/s and
24 at 280, which 2 cores without bfloat16 make. Three sizes have 4,096 steps to an iteration."""
QUICK: Final[Grid] = ((4,), (4, 8))

WARM_UP = 1
"""One iteration here, and one that is measured: the largest is of 131,072 steps."""


def bench_scaling(
    core: str, task: Task, grid: Grid, *, least_steps: int, output: Path | None = None
) -> None:
    """Measure, print and write, as ``commands.scaling`` says."""
    sizes = [(num_envs, unroll) for num_envs in grid[0] for unroll in grid[1]]
    configs = {}
    for num_envs, unroll in sizes:
        sized = replace(task, num_envs=num_envs, unroll=unroll)
        configs[num_envs, unroll] = task_config(
            sized, core, iterations=1, warm_up=WARM_UP, least=least_steps
        )
    check_outputs(output)
    console = Console()
    result: dict[str, Any] = {
        "benchmark": "scaling",
        **circumstances(task, configs[sizes[0]]),
        "core": core,
        "cells": [],
    }
    del result["num_envs"], result["unroll"]
    for (num_envs, unroll), config in configs.items():
        cell: dict[str, Any] = {"num_envs": num_envs, "unroll": unroll}
        try:
            cell |= measured(config, least_steps, core=False, warm_up=WARM_UP)
        except MeasurementError as error:  # the others are measured all the same
            cell["failed"] = str(error)
        result["cells"].append(cell)
        said = cell.get("failed") or f"{cell['steps_per_second']:.0f} steps/s"
        console.print(f"{num_envs} environments, unroll {unroll}: {said}", highlight=False)
        if output is not None:
            write_json(output, result)
    for sheet in scaling_sheets(result):
        console.print(sheet.table())
