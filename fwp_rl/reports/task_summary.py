"""What a run on a sequence task came to: a table for a terminal, and curve.png."""

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
        title=f"{result.task}, {core}: weights of the best validation, step {result.step:,}",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("", style="bold")
    table.add_column("validation", justify="right")
    table.add_column("test", justify="right")
    for name in dict.fromkeys([result.measure, *result.test]):
        values = (split.get(name) for split in (result.validation, result.test))
        table.add_row(name, *("nan" if value is None else f"{value:.4g}" for value in values))
    return table


def ending(result: TaskResult) -> str:
    """How long training took, and why it ended."""
    return (
        f"Ended after {result.steps:,} steps and {format_seconds(result.seconds)}: "
        f"{REASONS[result.stopped]}"
    )


def task_curve(run: RunDirectory, *, core: str, measure: str) -> Path:
    """Draw a run's curve.png, the measure on the validation split; returns its path. ImportError
    where matplotlib is missing."""
    rows = read_metrics(run.metrics, names=(VALIDATION,))
    write_file(run.curve, validation_curve(rows, title=f"{run.path.name}: {core}", measure=measure))
    return run.curve
