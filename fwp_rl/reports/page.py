"""The report: one HTML page that needs nothing beside it, and its figures and tables as files.

DIR/report.html                 charts, figures, tables and clips inside; no request leaves it
DIR/report.json                 all numbers, notes, and the configs of the runs
DIR/tables/*.csv, *.tex         numbers in full; tables for a paper
DIR/figures/*.png, *.svg        as wide as a paper's text
DIR/figures/*.pdf, *_column.pdf  the same, and as wide as one of two columns
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fwp_rl import __version__
from fwp_rl.config import ConfigError
from fwp_rl.reports import comparison_tables, tables
from fwp_rl.reports.charts import Chart, chart_of_curves, chart_of_profiles
from fwp_rl.reports.comparison import Band, Comparison, compare
from fwp_rl.reports.figures import (
    COLUMN,
    DARK,
    LIGHT,
    TEXT,
    Draw,
    Layout,
    Styles,
    draw,
    figure_aggregates,
    figure_curves,
    figure_improvement,
    figure_profiles,
)
from fwp_rl.reports.latex import aggregates_latex, scores_latex
from fwp_rl.reports.records import Records
from fwp_rl.reports.sources import plain
from fwp_rl.reports.table import Table, to_csv
from fwp_rl.runs.files import write_file
from fwp_rl.runs.presets import config_to_dict

__all__ = ["write_report"]

CLIP_BYTES = 4_000_000
"""A longer clip stays outside the page, which links to it."""
LONG_TABLE = 24
"""Rows of a table that stands open on the page, at most; that of scores always does."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of the page: a chart that the page draws, or pictures for a wide and for a narrow
    screen, light and dark, as data URIs; of a chart one, for readers without scripts.

    table  name of the CSV file that has its numbers
    """

    name: str
    title: str
    caption: str
    table: str
    pictures: Mapping[str, str]
    chart: Chart | None


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A run at play: its video inside the page, or a link to it where it is too long."""

    label: str
    task: str
    path: str
    kind: str
    data: str | None


@dataclass(kw_only=True)
class _Page:
    folder: Path
    figures: list[Figure] = field(default_factory=list)

    def add(
        self,
        name: str,
        title: str,
        caption: str,
        figure: Callable[[Layout], Draw],
        chart: Chart | None = None,
    ) -> None:
        """Write a figure's files and keep it for the page."""
        wide, narrow = figure(TEXT), figure(COLUMN)
        png, svg, pdf = draw(wide, ("png", "svg", "pdf"), LIGHT)
        column_pdf, column_svg = draw(narrow, ("pdf", "svg"), LIGHT)
        files = {".png": png, ".svg": svg, ".pdf": pdf, "_column.pdf": column_pdf}
        for end, content in files.items():
            write_file(self.folder / "figures" / f"{name}{end}", content)
        if chart is None:
            pictures = {"wide_light": svg, "narrow_light": column_svg}
            pictures |= {"wide_dark": draw(wide, ("svg",), DARK)[0]}
            pictures |= {"narrow_dark": draw(narrow, ("svg",), DARK)[0]}
            uris = {where: _data_uri("image/svg+xml", file) for where, file in pictures.items()}
        else:
            uris = {"alone": _data_uri("image/png", png)}
        self.figures.append(
            Figure(
                name=name,
                title=title,
                caption=caption,
                table=name,
                pictures=uris,
                chart=chart,
            )
        )


def write_report(records: Records, folder: Path, *, title: str, band: Band = "range") -> Path:
    """Write the page, its figures and its tables; returns the page's path.

    band  around learning curves

    ConfigError where the folder cannot be written. ImportError where matplotlib or jinja2 is
    missing (extra ``reports``).
    """
    template = _template()
    try:
        for name in ("figures", "tables"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        return _write(template, records, folder, title, band)
    except OSError as error:
        raise ConfigError(
            f"{folder}: the report cannot be written there ({error.strerror}); name another folder "
            "with -o"
        ) from error


def _write(template: Any, records: Records, folder: Path, title: str, band: Band) -> Path:
    compared = compare(records)
    page = _Page(folder=folder)
    _figures(records, compared, page, band)
    _remove_other_figures(page)
    made = datetime.now(UTC)
    every = [
        tables.scores(records),
        comparison_tables.aggregates(compared),
        comparison_tables.improvement(compared),
        *filter(None, [tables.published(records), tables.measures(records)]),
        tables.costs(records),
        tables.differences(records),
        tables.what_was_run(records),
        tables.runs(records, folder),
        comparison_tables.curves(compared),
        comparison_tables.profiles(compared),
    ]
    _write_tables(every, folder)
    about = {"schema": 1, "title": plain(title), "made": made.isoformat(timespec="seconds")}
    write_file(folder / "report.json", _json(about, records, compared, every))
    script = _asset("report.js")
    text = template.render(
        title=plain(title),
        made=made.strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        records=records,
        figures=page.figures,
        tables=[table for table in every if table.rows and table.columns],
        long_table=LONG_TABLE,
        notes=compared.notes,
        clips=_clips(records, folder),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    path = folder / "report.html"
    write_file(path, text.encode("utf-8", "replace"))
    return path


def _figures(records: Records, compared: Comparison, page: _Page, band: Band) -> None:
    """Those that the runs have something to show in."""
    styles, axes_of = Styles(records.labels), records.axes()
    bands = {
        "range": "the range from the lowest run to the highest",
        "interval": "its 95 % interval, where there are 5 runs",
    }
    if compared.curves:
        page.add(
            "curves",
            "Learning curves",
            "Return of recent training games, or a sequence task's measure on its validation "
            f"split: the mean over runs, and {bands[band]}.",
            lambda layout: figure_curves(
                compared.curves, styles, layout, axes_of=axes_of, band=band
            ),
            chart_of_curves(compared.curves, styles, axes_of=axes_of, band=band),
        )
    if compared.aggregates:
        page.add(
            "aggregates",
            "Over all tasks",
            "Scores are normalised: 0 and 1 are a random player and a human on Atari, elsewhere "
            "the bounds that the task states. Bars: 95 % stratified-bootstrap intervals, where "
            "every task has 5 runs.",
            lambda layout: figure_aggregates(compared.aggregates, styles, layout),
        )
        page.add(
            "profiles",
            "Performance profiles",
            "Fraction of runs, over all tasks, that score more than τ: the higher the better.",
            lambda layout: figure_profiles(compared.profiles, styles, layout),
            chart_of_profiles(compared.profiles, styles),
        )
    if compared.improvement:
        page.add(
            "improvement",
            "Probability of improvement",
            "How probable it is that a run of the row scores more than a run of the column, on a "
            "task drawn at random; ties count one half.",
            lambda layout: figure_improvement(compared.improvement, layout),
        )


def _remove_other_figures(page: _Page) -> None:
    """Files of an earlier report whose figure has nothing to show now."""
    made = {figure.name for figure in page.figures}
    for name in ("curves", "aggregates", "profiles", "improvement"):
        for end in (".png", ".svg", ".pdf", "_column.pdf"):
            if name not in made:
                (page.folder / "figures" / f"{name}{end}").unlink(missing_ok=True)


def _write_tables(every: Sequence[Table], folder: Path) -> None:
    """Every table as CSV, and two of them as LaTeX; those of an earlier report that have no rows
    now are gone."""
    latex = {"scores": scores_latex, "aggregates": aggregates_latex}
    for table in every:
        files = {"csv": to_csv(table)}
        if table.name in latex:
            files["tex"] = latex[table.name](table).encode("utf-8", "replace")
        for suffix, content in files.items():
            file = folder / "tables" / f"{table.name}.{suffix}"
            if table.rows:
                write_file(file, content)
            else:
                file.unlink(missing_ok=True)


def _json(
    about: Mapping[str, Any], records: Records, compared: Comparison, every: Sequence[Table]
) -> bytes:
    """All numbers of a report, table by table, and the configs of the runs in the order of the
    table ``runs``."""
    content = {
        **about,
        "fwp_rl": __version__,
        "notes": list(compared.notes),
        "left_out": records.skipped,
        "tables": {table.name: table.rows for table in every},
        "configs": [config_to_dict(run.config) for run in records.runs],
    }
    return json.dumps(content, indent=1, allow_nan=False).encode()


def _clips(records: Records, folder: Path) -> list[Clip]:
    """One for each label and task, of the first seed that has a video."""
    clips = []
    for task in records.tasks:
        for label in records.labels:
            video = next((r.video for r in records.of(label, task) if r.video is not None), None)
            if video is None:
                continue
            kind = "video/mp4" if video.suffix == ".mp4" else "image/gif"
            try:
                small = video.stat().st_size <= CLIP_BYTES
                data = _data_uri(kind, video.read_bytes()) if small else None
            except OSError:
                continue
            path = tables.relative(video, folder)
            clips.append(Clip(label=label, task=task, path=path, kind=kind, data=data))
    return clips


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _template() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise ImportError(
            "reports need jinja2: pip install 'fwp-rl[reports]'", name="jinja2"
        ) from error
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_asset("report.html"))
