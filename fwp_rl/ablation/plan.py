"""What ``fwp-rl ablate --dry-run`` prints."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from fwp_rl.ablation.estimate import (
    crowded,
    guessed_seconds,
    remaining_seconds,
    steps_per_second,
)
from fwp_rl.ablation.folder import AblationFolder
from fwp_rl.ablation.grid import Grid
from fwp_rl.terminal import console_for, format_seconds

__all__ = ["print_plan"]


def print_plan(
    grid: Grid, output: Path, *, jobs: int, threads: int, console: Console | None = None
) -> None:
    """The cells with state, steps and expected time; nothing is written or started."""
    console = console or console_for()
    folder = AblationFolder(output)
    notes = folder.check(grid)
    states = {cell.name: folder.state(cell) for cell in grid.cells}
    progress = {cell.name: folder.progress(cell) for cell in grid.cells}
    known = [(cell, progress[cell.name]) for cell in grid.cells if progress[cell.name].seconds]
    finished = {name for name, state in states.items() if state == "finished"}
    table = Table(title=f"{grid.source} into {output}", title_justify="left")
    table.add_column("cell")
    table.add_column("state", min_width=8)
    for name, width in (("steps", 11), ("done", 4), ("left", 8)):
        table.add_column(name, justify="right", min_width=width)
    for cell in grid.cells:
        rate = steps_per_second(cell, known)
        step, total = progress[cell.name].step, cell.config.total_steps
        expected = "-" if cell.name in finished else "unknown"
        if rate is not None and cell.name not in finished:
            expected = format_seconds(max(total - step, 0) / rate)
        table.add_row(
            cell.name,
            states[cell.name],
            f"{total:,}",
            f"{min(step / total, 1):.0%}",
            expected,
        )
    console.print(table)
    for note in [*notes, *crowded(grid.cells, threads=threads)]:
        console.print(note, soft_wrap=True)
    steps = sum(cell.config.total_steps for cell in grid.cells)
    frames = sum(cell.config.total_steps * cell.config.frames_per_step() for cell in grid.cells)
    console.print(
        f"{len(grid.cells)} cells, {len(finished)} finished; {steps:,} steps"
        f"{f' = {frames:,} frames' if frames != steps else ''}; "
        f"{jobs} at a time with {threads} thread{'s' if threads > 1 else ''} each",
        soft_wrap=True,
    )
    left = remaining_seconds(grid.cells, progress, finished=finished, jobs=jobs)
    if left is None:
        guess = format_seconds(guessed_seconds(grid.cells, jobs=jobs, threads=threads))
        console.print(
            f"Time left: {guess}, a rough guess from another machine's cores, as no cell has run "
            "in this folder yet",
            soft_wrap=True,
        )
    else:
        console.print(
            f"Time left: {format_seconds(left)} of training, by the speed of the {len(known)} "
            "cells that have run in this folder",
            soft_wrap=True,
        )
