"""The result of an evaluation: the JSON file that holds it, and its table."""

import errno
import math
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from fwp_rl.envs.atari import protocol_in_words
from fwp_rl.evaluation.checkpoints import run_of
from fwp_rl.machine import facts
from fwp_rl.models.policy import Policy, PolicyConfig
from fwp_rl.runs.files import write_json
from fwp_rl.runs.policy import SavedPolicy
from fwp_rl.runs.presets import config_to_dict

__all__ = [
    "check_writable",
    "evaluation_table",
    "evaluations_table",
    "origin",
    "warn_if_unwritable",
    "write_result",
]


def warn_if_unwritable(
    saved: SavedPolicy, output: str | Path | None, warn: Callable[[str], object]
) -> None:
    """Before anything is played: OSError where ``output`` cannot be written. Where it is None and
    the default place cannot be written, ``warn`` is told: the result will be shown and not kept.
    """
    if output is not None:
        check_writable(Path(output))
        return
    file = _default_file(saved.path, "probe", "")
    try:
        check_writable(file)
    except OSError as error:
        warn(
            f"{file.parent}: cannot be written ({error.strerror}): the result will be shown and "
            "not kept; --output names another file"
        )


def check_writable(file: Path) -> None:
    """OSError where a file cannot be written, as far as can be told without making it, or folders
    that it needs."""
    folder = file.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None


def origin(policy: Policy, environment: Mapping[str, Any]) -> dict[str, Any]:
    """All that a result depends on beside the weights and the seed, and what made it.

    environment  what the environment said of itself
    """
    return {
        "environment": environment,
        "network": config_to_dict(policy.config, PolicyConfig),
        "command": shlex.join(sys.argv),
        **facts(next(policy.parameters()).device),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_result(
    saved: SavedPolicy,
    result: Mapping[str, Any],
    name: str,
    output: str | Path | None,
    warn: Callable[[str], object],
) -> dict[str, Any]:
    """Write an evaluation as JSON; returns it, with its ``file``.

    name  of the file, to which the time is added, where ``output`` is None
    warn  is told why, where it cannot be written; ``file`` is None then: what was played is worth
          more than its file

    A number that is not finite is null in the file.
    """
    stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    file = Path(output) if output is not None else _default_file(saved.path, name, stamp)
    try:
        write_json(file, as_json(result))
    except OSError as error:
        reason = error.strerror or error
        warn(f"{file}: the result was not written: {reason}; --output names another file")
        return {**result, "file": None}
    return {**result, "file": str(file)}


def _default_file(path: Path, name: str, stamp: str) -> Path:
    """In the run's evaluations/, or, for a policy without a run, in the current folder."""
    run = run_of(path)
    if run is None:
        return Path(f"evaluation-{stamp}.json")
    return run / "evaluations" / f"{name}-{stamp}.json"


def as_json(value: Any) -> Any:
    """The value with null for every number that JSON has not: infinities and NaN."""
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluations_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Evaluations of several checkpoints of a run, a row for each, for a terminal."""
    first = results[0]
    table = Table(
        title=f"{first['summary']['task']}: whole games, {first['protocol']['actions']} actions",
        title_justify="left",
        title_style="bold",
    )
    goal = any(result["summary"]["success"] is not None for result in results)
    for name in ("step", "mean return", "95 % interval", "games", *["success"] * goal):
        table.add_column(name, justify="right")
    for result in results:
        summary, step = result["summary"], result["step"]
        interval = summary["interval"]
        row = [
            "-" if step is None else f"{step:,}",
            f"{summary['mean']:.2f}",
            "-" if interval is None else "{:.2f} to {:.2f}".format(*interval),
            str(result["protocol"]["games"]),
        ]
        if goal:
            success = summary["success"]
            row.append("-" if success is None else f"{100 * success['rate']:.1f} %")
        table.add_row(*row)
    return table


def evaluation_table(result: dict[str, Any]) -> Table:
    """The summary of an evaluation, for a terminal; older results may lack some of its rows."""
    protocol, summary = result["protocol"], result["summary"]
    table = Table(
        title=f"{summary['task']}: {protocol['games']} whole games, {protocol['actions']} actions, "
        f"{protocol['checkpoint']} checkpoint",
        title_justify="left",
        title_style="bold",
        show_header=False,
    )
    table.add_column(style="bold")
    table.add_column(justify="right")
    rows = {"mean return": f"{summary['mean']:.2f}"}
    if summary["interval"] is not None:
        rows["95 % interval of the mean"] = "{:.2f} to {:.2f}".format(*summary["interval"])
        rows["standard deviation"] = f"{summary['std']:.2f}"
    rows["median"] = f"{summary['median']:g}"
    rows["lowest, highest"] = f"{summary['min']:g}, {summary['max']:g}"
    rows["mean length in steps"] = f"{summary['mean_length']:.0f}"
    rows["games cut by the time limit"] = str(summary["truncated"])
    if summary.get("success") is not None:
        rows["success"] = f"{100 * summary['success']['rate']:.1f} %"
        low, high = (100 * end for end in summary["success"]["interval"])
        rows["95 % interval of the success"] = f"{low:.1f} to {high:.1f} %"
    environment = result["environment"]
    if "protocol" in environment:
        rows["protocol of play"] = protocol_in_words(environment)
    if "backend" in environment:
        rows["played by"] = environment["backend"]
    if "screens" in environment:
        rows["screens in an observation"] = str(environment["screens"])
    if summary["human_normalized"] is not None:
        rows["human-normalised"] = f"{100 * summary['human_normalized']:.1f} %"
    for name, value in rows.items():
        table.add_row(name, value)
    return table
