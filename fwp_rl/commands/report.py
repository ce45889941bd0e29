"""``fwp-rl report``: a page that compares runs."""

from pathlib import Path
from typing import Annotated

import tyro

from fwp_rl.commands.shared import note
from fwp_rl.config import ConfigError
from fwp_rl.runs.arguments import run_command

__all__ = ["run"]


def run(args: list[str]) -> None:
    """The command, with these arguments."""
    run_command(report, args, prog="fwp-rl report")


def report(
    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUNS_OR_ABLATION ...")
    ],
    /,
    *,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    title: str | None = None,
) -> None:
    """Compare runs on one HTML page, with its figures and tables as files beside it.

    Args:
        runs: Run directories, ablations, or folders that hold runs.
        output: The folder to write; by default report/ in the one folder given, else report/
            here.
        title: Of the page; by default the folder's name.
    """
    if not runs:
        raise ConfigError("report needs run directories, an ablation, or a folder of runs")

    from fwp_rl.reports.sources import find_runs

    find_runs(runs)  # a typo is told before torch is imported

    from fwp_rl import agents  # noqa: F401 (fills the registry of agents)
    from fwp_rl.reports.page import write_report
    from fwp_rl.reports.records import read_records

    records = read_records(runs)
    for path, reason in records.skipped.items():
        note(f"left out: {path}: {reason}")
    alone = len(runs) == 1
    folder = output or (runs[0] / "report" if alone else Path("report"))
    name = runs[0].resolve().name if alone else f"{len(records.runs)} runs"
    print(write_report(records, folder, title=title or name))
