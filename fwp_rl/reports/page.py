"""The report: one HTML page that needs nothing beside it, and its figures and tables as files.

DIR/report.html        figures, tables and clips inside; no request leaves it
DIR/figures/*.png,svg
DIR/tables/*.csv
"""

import base64
import csv
import io
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from fwp_rl import __version__
from fwp_rl.config import ConfigError
from fwp_rl.reports import tables
from fwp_rl.reports.figures import (
    DARK,
    LIGHT,
    Draw,
    Styles,
    draw,
    figure_aggregates,
    figure_curves,
    figure_improvement,
    figure_profiles,
)
from fwp_rl.reports.plots import moving_average
from fwp_rl.reports.records import Records
from fwp_rl.reports.sources import plain
from fwp_rl.reports.statistics import (
    Scores,
    aggregate,
    normalized_score,
    performance_profile,
    probability_of_improvement,
    why_no_interval,
)
from fwp_rl.reports.tables import Table
from fwp_rl.runs.files import write_file

__all__ = ["write_report"]

CLIP_BYTES = 4_000_000
"""A longer clip stays outside the page, which links to it."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure, ready for the page: data URIs for light and dark."""

    name: str
    title: str
    caption: str
    light: str
    dark: str


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

    def add(self, name: str, title: str, caption: str, figure: Draw) -> None:
        """Write a figure's files and keep it for the page."""
        write_file(self.folder / "figures" / f"{name}.png", draw(_opaque(figure), "png", LIGHT))
        svg = {theme.name: draw(figure, "svg", theme) for theme in (LIGHT, DARK)}
        write_file(self.folder / "figures" / f"{name}.svg", svg["light"])
        uris = {theme: _data_uri("image/svg+xml", file) for theme, file in svg.items()}
        self.figures.append(Figure(name=name, title=title, caption=caption, **uris))


def write_report(records: Records, folder: Path, *, title: str) -> Path:
    """Write the page, its figures and its tables; returns the page's path.

    ConfigError where the folder cannot be written. ImportError where matplotlib or jinja2 is
    missing (extra ``reports``).
    """
    template = _template()
    try:
        for name in ("figures", "tables"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        return _write(template, records, folder, title)
    except OSError as error:
        raise ConfigError(
            f"{folder}: the report cannot be written there ({error.strerror}); name another folder "
            "with -o"
        ) from error


def _write(template: Any, records: Records, folder: Path, title: str) -> Path:
    page = _Page(folder=folder)
    styles = Styles(records.labels)
    page.add(
        "curves",
        "Learning curves",
        "Return of recent training games, or a sequence task's measure on its validation split: "
        "the mean over seeds, and the range from the lowest seed to the highest.",
        figure_curves(_curves(records), styles, axes_of=records.axes()),
    )
    notes = _compare(records, page, styles)
    shown = [
        tables.what_was_run(records),
        tables.differences(records),
        tables.scores(records),
        *filter(None, [tables.published(records)]),
        tables.costs(records),
        tables.runs(records, folder),
    ]
    for table in shown:
        write_file(folder / "tables" / f"{table.name}.csv", _csv(table))
    text = template.render(
        title=plain(title),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        records=records,
        figures=page.figures,
        tables=shown,
        notes=notes,
        clips=_clips(records, folder),
    )
    path = folder / "report.html"
    write_file(path, text.encode("utf-8", "replace"))
    return path


def _compare(records: Records, page: _Page, styles: Styles) -> list[str]:
    """The figures over all tasks; returns what has to be said of them."""
    scores, notes = _normalized(records)
    if not scores:
        return [*notes, "No run has a normalised score, so there is nothing to compare over tasks."]
    reasons = [reason for of_label in scores.values() if (reason := why_no_interval(of_label))]
    if reasons:
        notes.append(reasons[0])
    bands = "" if reasons else " Bars and bands: 95 % stratified-bootstrap intervals."
    page.add(
        "aggregates",
        "Over all tasks",
        "Scores are normalised: 0 and 1 are a random player and a human on Atari, elsewhere the "
        f"bounds that the task states.{bands}",
        figure_aggregates({label: aggregate(s) for label, s in scores.items()}, styles),
    )
    top = max(float(np.max(np.asarray(v))) for s in scores.values() for v in s.values())
    levels = np.linspace(0, max(1.0, top), 101)
    page.add(
        "profiles",
        "Performance profiles",
        "Fraction of runs, over all tasks, that score more than τ: the higher the better.",
        figure_profiles(
            {label: performance_profile(s, levels) for label, s in scores.items()}, styles
        ),
    )
    shared = [task for task in records.tasks if all(task in s for s in scores.values())]
    if len(scores) > 1 and shared:
        common = {label: {task: s[task] for task in shared} for label, s in scores.items()}
        page.add(
            "improvement",
            "Probability of improvement",
            "How probable it is that a run of the row scores more than a run of the column, on a "
            "task drawn at random; ties count one half.",
            figure_improvement(
                {
                    a: {
                        b: probability_of_improvement(common[a], common[b])
                        for b in common
                        if b != a
                    }
                    for a in common
                }
            ),
        )
    return notes


def _normalized(records: Records) -> tuple[dict[str, Scores], list[str]]:
    """Label → task → normalised scores, for the tasks that every label has; and what to say."""
    found: dict[str, dict[str, list[float]]] = {}
    without, unscored = set(), []
    for run in records.runs:
        if run.score is None:
            unscored.append(plain(run.path.name))
            continue
        value = normalized_score(run.config, run.score.mean)
        if value is None:
            without.add(run.task)
        else:
            found.setdefault(run.label, {}).setdefault(run.task, []).append(value)
    notes = []
    if unscored:
        notes.append(
            f"{len(unscored)} runs have no evaluation of their last checkpoint and no score: "
            f"{', '.join(unscored[:5])}{', …' if len(unscored) > 5 else ''}."
        )
    if without:
        notes.append(f"Without known bounds, and so left out of comparisons: {', '.join(without)}.")
    everywhere = [task for task in records.tasks if all(task in s for s in found.values())]
    partial = {task for s in found.values() for task in s} - set(everywhere)
    if partial:
        notes.append(
            f"Not run by all, and so left out of comparisons: {', '.join(sorted(partial))}."
        )
    if not everywhere:
        return {}, notes
    return {label: {task: s[task] for task in everywhere} for label, s in found.items()}, notes


def _curves(records: Records) -> dict[str, dict[str, list[tuple[Any, Any]]]]:
    curves: dict[str, dict[str, list[tuple[Any, Any]]]] = {}
    for run in records.runs:
        steps, returns = run.curve
        if len(steps):
            returns = moving_average(returns, max(1, len(returns) // 20))
        curves.setdefault(run.task, {}).setdefault(run.label, []).append((steps, returns))
    return curves


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


def _opaque(figure: Draw) -> Draw:
    """For files of their own: a white background, whatever shows them."""

    def made(theme: Any) -> Any:
        result = figure(theme)
        result.patch.set(alpha=1.0, facecolor="white")
        return result

    return made


def _csv(table: Table) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([cell.text for cell in row] for row in table.rows)
    return out.getvalue().encode("utf-8", "replace")


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _template() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise ImportError(
            "reports need jinja2: pip install 'fwp-rl[reports]'", name="jinja2"
        ) from error
    source = (Path(__file__).parent / "report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source)
