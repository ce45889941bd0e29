"""What a run on a sequence task came to: a table for a terminal, and curve.png."""

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from fwp_rl.reports.plots import VALIDATION, validation_curve
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.files import write_file
from fwp_rl.runs.metrics import read_metrics
from fwp_rl.runs.schema import TaskResult
from fwp_rl.terminal import format_seconds

__all__ = ["ending", "result_table", "task_curve"]

REASONS = {
    "steps": "all steps were taken",
    "solved": "as good as stop_at asks for",
    "patience": "no new best for as long as patience allows",
    "time": "max_minutes were up",
    "diverged": "a gradient was not finite",
}


def result_table(result: TaskResult, *, core: str) -> Table:
    """The measures on both splits."""
    table = Table(
        title=f"{result.task}, {core}",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("", style="bold")
    table.add_column("validation", justify="right")
    table.add_column("test", justify="right")
    for name in dict.fromkeys([result.measure, *result.test]):
        table.add_row(name, *(_shown(split, name) for split in (result.validation, result.test)))
    return table


def _shown(split: Mapping[str, float | None], name: str) -> str:
    """Empty where it is not measured there, nan where it is no number."""
    if name not in split:
        return ""
    value = split[name]
    return "nan" if value is None else f"{value:.4g}"


def ending(result: TaskResult) -> str:
    """Which weights were measured, how long training took, and why it ended."""
    return (
        f"Of the weights of step {result.step:,}, the best by validation. Ended after "
        f"{result.steps:,} steps and {format_seconds(result.seconds)}: {REASONS[result.stopped]}"
    )


def task_curve(run: RunDirectory, result: TaskResult, *, core: str) -> Path:
    """Draw a run's curve.png, the measure on the validation split; returns its path. ImportError
    where matplotlib is missing."""
    rows = read_metrics(run.metrics, names=(VALIDATION,))
    title = f"{result.task}, {core}"
    write_file(run.curve, validation_curve(rows, title=title, measure=result.measure))
    return run.curve
