"""What the rounds of ``fwp-rl bench training`` come to. Pure functions of the result, as it stands
in its JSON file."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fwp_rl.bench.estimates import median
from fwp_rl.bench.floor import PARTS, best_splits, floors

__all__ = ["OTHER", "figures", "run_stages", "stages"]

OTHER = "other"
"""The stage of a training run that is none of the parts."""


def figures(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Core → its figures: medians over the rounds, and the shares with their intervals."""
    return {name: _figures(result, name) for name in result["runs"]}


def _figures(result: Mapping[str, Any], name: str) -> dict[str, Any]:
    runs = result["runs"][name]
    found: dict[str, Any] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    if "floor" in result:
        parts = result["floor"][name]
        shares = [a / run["seconds"] for a, run in zip(floors(parts), runs, strict=True)]
        medians = {
            part: {split: statistics.median(r[part][split] for r in parts) for split in splits}
            for part, splits in parts[0].items()
        }
        best = best_splits(parts)
        found["floor"] = {
            "seconds": statistics.median(floors(parts)),
            "splits": best,
            "parts": {part: medians[part][split] for part, split in best.items()},
            "all_splits": medians,
            "share": asdict(median(shares)),
        }
    if "beside" in result:
        kept = [
            slow["steps_per_second"] / run["steps_per_second"]
            for slow, run in zip(result["beside"][name], runs, strict=True)
        ]
        control = result["control"]
        possible = [
            slow / fast for slow, fast in zip(control["beside"], control["alone"], strict=True)
        ]
        found["beside"] = {
            "steps_per_second": statistics.median(
                run["steps_per_second"] for run in result["beside"][name]
            ),
            "kept": asdict(median(kept)),
            "control_kept": asdict(median(possible)),
            "share": asdict(median([a / b for a, b in zip(kept, possible, strict=True)])),
        }
    return found


def stages(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Seconds of an iteration by stage: of each core the run and, where it was measured, the floor,
    as bars of one picture."""
    bars = {}
    for name, found in result["figures"].items():
        bars[name] = run_stages(found, actors=result["actors"])
        if "floor" in found:
            parts = found["floor"]["parts"]
            bars[f"{name}: floor"] = {part: parts[part] for part in PARTS}
    return bars


def run_stages(found: Mapping[str, Any], *, actors: int) -> dict[str, float]:
    """Seconds of an iteration that a run spends in each stage, by the names of the parts.

    actors  threads that play beside the learner. With any, stages overlap: the iteration is then
            divided as the threads' time is, and nothing is left over
    """
    of_part = {part: found[stage] for part, stage in PARTS.items()}
    if actors:
        of_part |= {part: actors * of_part[part] for part in ("emulator", "acting")}
    else:
        of_part[OTHER] = max(0.0, 1 - sum(of_part.values()))
    whole = sum(of_part.values()) or 1.0
    return {part: found["seconds"] * share / whole for part, share in of_part.items()}
