"""``fwp-rl bench envs``: environment steps per second, by number of environments and threads.

The environments play alone, with random actions that lie ready, through the adapters that training
plays through.
"""

import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from fwp_rl.bench.env_cases import CASES, Size, play
from fwp_rl.bench.processes import MeasurementError, fresh
from fwp_rl.bench.sheets import envs_sheets
from fwp_rl.bench.training import check_outputs
from fwp_rl.machine import facts
from fwp_rl.runs.files import write_json

__all__ = ["bench_envs"]


def bench_envs(
    names: Sequence[str],
    *,
    num_envs: Sequence[int],
    threads: Sequence[int],
    seconds: float,
    rounds: int,
    output: Path | None = None,
) -> None:
    """Measure, print and write, as ``commands.envs`` says."""
    check_outputs(output)
    console = Console()
    result: dict[str, Any] = {
        "benchmark": "envs",
        "seconds": seconds,
        **facts(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    found: dict[str, dict[Size, list[float]]] = {name: {} for name in names}
    failed: dict[str, str] = {}
    for round_ in range(rounds):
        for name in [name for name in names if name not in failed]:
            sizes = [
                (count, of) for count in num_envs for of in _threads(name, threads) if of <= count
            ]
            try:
                speeds = fresh(play, name, sizes, seconds)
            except MeasurementError as error:  # the others are measured all the same
                failed[name] = str(error)
                console.print(f"{name}: {error}", highlight=False, markup=False)
                continue
            for size, speed in speeds.items():
                found[name].setdefault(size, []).append(speed)
            best = max(speeds.values(), default=0.0)
            console.print(
                f"round {round_ + 1} of {rounds}: {name} up to {best:,.0f} steps/s", highlight=False
            )
        result |= {"rounds": round_ + 1, "cells": _cells(found), "failed": failed}
        if output is not None:
            write_json(output, result)
    for sheet in envs_sheets(result):
        console.print(sheet.table())


def _threads(name: str, threads: Sequence[int]) -> Sequence[int]:
    return threads if CASES[name].threads else (1,)


def _cells(found: dict[str, dict[Size, list[float]]]) -> list[dict[str, Any]]:
    return [
        {
            "environment": name,
            "num_envs": size[0],
            "threads": size[1],
            "steps_per_second": statistics.median(speeds),
            "runs": speeds,
        }
        for name, sizes in found.items()
        for size, speeds in sizes.items()
    ]
