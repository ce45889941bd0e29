"""``fwp-rl report``: a page that compares runs."""

from pathlib import Path
from typing import Annotated, Literal

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
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME=]RUNS_OR_ABLATION ...")
    ],
    /,
    *,
    by: Annotated[str | None, tyro.conf.arg(metavar="FIELD,FIELD,...")] = None,
    band: Literal["range", "interval"] = "range",
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    title: str | None = None,
) -> None:
    """Compare runs on one HTML page, with its figures and tables as files beside it.

    The folder holds report.html, report.json (all numbers), tables/ (CSV, LaTeX) and figures/
    (PDF as wide as a paper's text and as one column, SVG, PNG).

    Args:
        runs: Run directories, ablations, or folders that hold runs at any depth. NAME=PATH calls
            the runs at the path NAME.
        by: Fields of configs to group runs by, whatever else differs: core,core.heads or agent.
            By default the core, or the axes of an ablation, and what else tells runs apart.
        band: Around learning curves: from the lowest run to the highest, or the 95 % interval of
            the mean, from 5 runs on.
        output: The folder to write; by default report/ in the one folder given, else report/
            here.
        title: Of the page; by default the folder's name.
    """
    if not runs:
        raise ConfigError("report needs run directories, an ablation, or a folder of runs")
    fields = None if by is None else [name for name in by.split(",") if name.strip()]
    if fields == []:
        raise ConfigError(f"--by: got {by!r}, expected fields of configs, such as core,core.heads")

    from fwp_rl.reports.sources import find_runs, named_path

    find_runs(runs)  # a typo is told before torch is imported

    from fwp_rl import agents  # noqa: F401 (fills the registry of agents)
    from fwp_rl.reports.page import write_report
    from fwp_rl.reports.records import read_records

    records = read_records(runs, by=fields)
    for path, reason in records.skipped.items():
        note(f"left out: {path}: {reason}")
    alone = named_path(runs[0])[1] if len(runs) == 1 else None
    folder = output or (Path("report") if alone is None else alone / "report")
    name = f"{len(records.runs)} runs" if alone is None else alone.resolve().name
    print(write_report(records, folder, title=title or name, band=band))
