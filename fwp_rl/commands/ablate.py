"""``fwp-rl ablate``: a grid of runs."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from fwp_rl.commands.shared import fail
from fwp_rl.config import ConfigError
from fwp_rl.imports import import_flags, imported
from fwp_rl.runs.arguments import run_command
from fwp_rl.terminal import say_next

__all__ = ["run"]


def run(args: list[str]) -> None:
    """The command, with these arguments."""
    run_command(ablate, args, prog="fwp-rl ablate")


def ablate(
    grid: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="GRID")],
    /,
    *,
    jobs: int | None = None,
    threads: int | None = None,
    output: Path | None = None,
    stop_seconds: float = 60.0,
    dry_run: bool = False,
    plain: bool = False,
) -> None:
    """Train every cell of a grid, in worker processes; go on where an earlier call stopped.

    Finished cells are skipped, half-done ones resumed; one that crashes is resumed once more,
    then it counts as failed, and the rest goes on. Ctrl-C saves all and stops.

    Args:
        grid: A name (fwp-rl list ablations), or the path of a .yaml file.
        jobs: Cells that train at the same time; by default half the number of cores that
            this process may use.
        threads: Threads of each of them; by default its share of the cores.
        output: The folder of the runs; by default runs/ablations/NAME.
        stop_seconds: How long a stop waits for the cells to save; those that have not ended by
            then are killed.
        dry_run: Print the cells, their steps and how long they will take; start nothing.
        plain: Print plain lines instead of the live table, as is done outside a terminal.
    """
    from fwp_rl.machine import usable_cores
    from fwp_rl.runs.yaml_files import grid_path, read_yaml

    for name, value in (("jobs", jobs), ("threads", threads)):
        if value is not None and value < 1:
            raise ConfigError(f"--{name}: got {value}, expected 1 or more")
    if not stop_seconds >= 0:
        raise ConfigError(f"--stop-seconds: got {stop_seconds}, expected 0 or more")
    cores = usable_cores()
    jobs = jobs or max(1, cores // 2)
    threads = threads or max(1, cores // jobs)
    source = grid_path(grid)
    read_yaml(source)  # a typo is told before torch is imported

    from fwp_rl import agents  # noqa: F401  # fills the registry of agents
    from fwp_rl.ablation.grid import load_grid
    from fwp_rl.ablation.plan import print_plan
    from fwp_rl.ablation.runner import run_grid

    loaded = load_grid(source)
    output = output or Path("runs") / "ablations" / loaded.name
    if dry_run:
        print_plan(loaded, output, jobs=jobs, threads=threads)
        say_next("ablate", grid)
        return
    failed, code = run_grid(
        loaded,
        output,
        jobs=jobs,
        threads=threads,
        stop_seconds=stop_seconds,
        plain=plain,
        imports=imported(),
    )
    if code:
        print(f"Stopped. Go on with the same command: fwp-rl ablate {grid}{import_flags()}")
        sys.exit(code)
    if failed:
        names = ", ".join(cell.name for cell in failed)
        fail(f"failed: {names}; the same command tries again", 1)
    print(f"All {len(loaded.cells)} cells are finished: {output}")
    say_next("report", output)
