"""The tables of each benchmark, from its result as it stands in the JSON file."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

from fwp_rl.bench.estimates import shown
from fwp_rl.bench.figures import OTHER, run_stages
from fwp_rl.bench.sheet import Sheet
from fwp_rl.reports.statistics import Estimate

__all__ = ["SHEETS", "cores_sheets", "envs_sheets", "scaling_sheets", "training_sheets"]

Result = Mapping[str, Any]


def training_sheets(result: Result) -> list[Sheet]:
    """Speeds, then what was asked for besides: floors, parts, company."""
    sheets = [_speeds(result)]
    if "floor" in result:
        sheets += [_floors(result), *(_parts(result, name) for name in result["figures"])]
    if "beside" in result:
        sheets.append(_beside(result))
    return sheets


def _task(result: Result) -> str:
    arithmetic = "bfloat16" if result["bfloat16"] else "float32"
    return (
        f"{result['agent']}, {result['encoder']} in {arithmetic}, {result['game']}, "
        f"{result['num_envs']} x {result['unroll']} steps"
    )


def _speeds(result: Result) -> Sheet:
    found = result["figures"]
    first = next(iter(found.values()))
    stages = ["acting", "environment", "learning", *(["core"] if "core" in first else [])]
    return Sheet(
        title=_task(result),
        columns=["core", "steps/s", "ratio", "acting", "emulator", *stages[2:]],
        rows=[
            [
                name,
                f"{row['steps_per_second']:.0f}",
                f"{row['steps_per_second'] / first['steps_per_second']:.2f}",
                *(f"{100 * row[stage]:.0f} %" for stage in stages),
            ]
            for name, row in found.items()
        ],
        note="core: the core alone, timed by itself, of it all" if "core" in first else "",
    )


def _floors(result: Result) -> Sheet:
    steps = result["num_envs"] * result["unroll"]
    return Sheet(
        title="Against the floor, steps/s",
        columns=["core", "training", "floor", "share of the floor"],
        rows=[
            [
                name,
                f"{steps / row['seconds']:.0f}",
                f"{steps / row['floor']['seconds']:.0f}",
                _estimate(row["floor"]["share"]),
            ]
            for name, row in result["figures"].items()
        ],
        note=_rounds(result),
    )


def _parts(result: Result, name: str) -> Sheet:
    """An iteration of one core by parts."""
    found = result["figures"][name]
    floor, run = found["floor"], run_stages(found, actors=result["actors"])
    rows = []
    for part, split in floor["splits"].items():
        others = {s: t for s, t in floor["all_splits"][part].items() if s != split}
        rows.append(
            [
                f"learning, {_passes(result)}" if part == "learning" else part,
                split,
                ", ".join(f"{other} {_ms(seconds)}" for other, seconds in others.items()),
                _ms(floor["parts"][part]),
                _ms(run[part]),
            ]
        )
    if OTHER in run:
        rows.append([OTHER, "", "", "", _ms(run[OTHER])])
    rows.append(["all", "", "", _ms(floor["seconds"]), _ms(found["seconds"])])
    return Sheet(
        title=f"{name}: an iteration in ms",
        columns=["part", "best split", "other splits", "floor", "training"],
        rows=rows,
        names=3,
        detail=True,
    )


def _passes(result: Result) -> str:
    return f"{result['passes']} pass{'es' if result['passes'] > 1 else ''}"


def _beside(result: Result) -> Sheet:
    count = result["beside_processes"]
    rows = result["figures"]
    control = next(iter(rows.values()))["beside"]["control_kept"]
    return Sheet(
        title=f"Beside {count} busy process{'es' if count > 1 else ''}, steps/s",
        columns=["core", "alone", "beside", "kept", "of the control's"],
        rows=[
            [
                name,
                f"{row['steps_per_second']:.0f}",
                f"{row['beside']['steps_per_second']:.0f}",
                f"{row['beside']['kept']['value']:.2f}",
                _estimate(row["beside"]["share"]),
            ]
            for name, row in rows.items()
        ],
        note=f"The control keeps {_estimate(control)}; the last column is kept over that. "
        f"{_rounds(result)}",
    )


def scaling_sheets(result: Result) -> list[Sheet]:
    """A row for each size; what failed says how."""
    cells = result["cells"]
    done = [cell for cell in cells if "failed" not in cell]
    smallest = min(done, key=lambda cell: cell["num_envs"] * cell["unroll"], default=None)
    rows = []
    for cell in cells:
        row = [f"{cell['num_envs']}", f"{cell['unroll']}"]
        if "failed" in cell:
            rows.append([*row, "failed", "", ""])
            continue
        assert smallest is not None
        steps = cell["num_envs"] * cell["unroll"]
        more = steps - smallest["num_envs"] * smallest["unroll"]
        above = cell["peak_memory"] - smallest["peak_memory"]
        rows.append(
            [
                *row,
                f"{cell['steps_per_second']:.0f}",
                f"{cell['peak_memory'] / 1e6:,.0f}",
                f"{above / more / 1e3:.0f}" if more else "",
            ]
        )
    failures = [
        f"{cell['num_envs']} x {cell['unroll']} failed: {cell['failed']}."
        for cell in cells
        if "failed" in cell
    ]
    arithmetic = "bfloat16" if result["bfloat16"] else "float32"
    return [
        Sheet(
            title=f"{result['agent']}, {result['encoder']} in {arithmetic}, {result['game']}, "
            f"{result['core']}",
            columns=["environments", "unroll", "steps/s", "peak, MB", "kB per step"],
            rows=rows,
            note=" ".join(
                (
                    "kB per step: memory above the smallest row's, for each step more.",
                    *failures,
                )
            ),
        )
    ]


def envs_sheets(result: Result) -> list[Sheet]:
    """A row for each environment and size."""
    rows = [
        [
            cell["environment"],
            f"{cell['num_envs']}",
            f"{cell['threads']}",
            f"{cell['steps_per_second']:,.0f}",
        ]
        for cell in result["cells"]
    ]
    rows += [[name, "", "", "not measured"] for name in result["failed"]]
    failures = [f"{name}: {reason}." for name, reason in result["failed"].items()]
    return [
        Sheet(
            title="Environments alone, random actions",
            columns=["environment", "environments", "threads", "steps/s"],
            rows=rows,
            note=" ".join([_rounds(result), *failures]),
        )
    ]


def cores_sheets(result: Result) -> list[Sheet]:
    """A row for each core: module, bare and their ratio, of both passes."""
    rows = []
    for name, found in result["cores"].items():
        row = [name]
        for what in ("learning", "acting"):
            case = found[what]
            row.append(f"{1000 * case['module']:.3g}")
            if "bare" in case:
                row += [f"{1000 * case['bare']:.3g}", f"{case['ratio']['value']:.2f}"]
            else:  # a core that computes nothing
                row += ["", ""]
        rows.append(row)
    size = result["hidden_size"] or "default"
    return [
        Sheet(
            title=f"Cores, ms: {result['steps']} x {result['columns']} forward and backward, "
            f"one step of {result['acting_columns']}",
            columns=["core", "learning", "bare", "ratio", "acting", "bare", "ratio"],
            rows=rows,
            note=f"{result['input_size']} inputs, hidden size {size}. bare: matrix products and "
            "ops alone.",
        )
    ]


def _rounds(result: Result) -> str:
    count = result["rounds"]
    return f"Medians of {count} round{'s' if count > 1 else ''}, 95 % intervals from 6 on."


def _estimate(stored: Mapping[str, Any]) -> str:
    interval = stored["interval"]
    kept = dataclasses.replace(
        Estimate(value=stored["value"], interval=None),
        interval=None if interval is None else tuple(interval),
    )
    return shown(kept)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f}" if seconds >= 0.1 else f"{1000 * seconds:.1f}"


SHEETS: Final[dict[str, Callable[[Result], list[Sheet]]]] = {
    "training": training_sheets,
    "scaling": scaling_sheets,
    "envs": envs_sheets,
    "cores": cores_sheets,
}
"""Benchmark → its tables."""
