"""Pictures of runs. matplotlib is imported here alone, and only when a picture is drawn."""

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fwp_rl.reports.sources import plain
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.files import write_file
from fwp_rl.runs.metrics import read_metrics
from fwp_rl.terminal import format_count

__all__ = [
    "CURVE_POINTS",
    "RETURN",
    "VALIDATION",
    "Floats",
    "compare_learning_curves",
    "curve_points",
    "draw_learning_curve",
    "evaluation_curve",
    "learning_curve",
    "moving_average",
    "new_figure",
    "plain_texts",
    "validation_curve",
]

RETURN = "charts/episode_return"
VALIDATION = "validation/score"
EVALUATION, EVALUATION_LOW, EVALUATION_HIGH = (
    f"evaluation/{name}" for name in ("mean_return", "interval_low", "interval_high")
)

CURVE_POINTS = 5_000
"""Rows of a run's metrics that are drawn, at most."""

# Okabe and Ito's palette, told apart by colour-blind readers and in grey
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
PALETTE = (BLUE, VERMILION, GREEN, "#CC79A7", "#56B4E9", "#E69F00", "#000000")

Floats = NDArray[np.float64]


def learning_curve(
    run: str | Path, *, evaluation: Mapping[str, Any] | None = None, title: str | None = None
) -> Path:
    """Draw a run's curve.png from its metrics.jsonl; returns its path.

    evaluation  what ``evaluate`` returned: drawn as one point with its interval
    title       by default the run directory's name

    ImportError where matplotlib is missing.
    """
    directory = RunDirectory.open(run)
    rows = [
        row
        for names in ((RETURN,), (EVALUATION, EVALUATION_LOW, EVALUATION_HIGH))
        for row in read_metrics(directory.metrics, names=names, limit=CURVE_POINTS)
    ]
    png = draw_learning_curve(
        rows,
        title=directory.path.resolve().name if title is None else title,
        evaluation=evaluation,
    )
    write_file(directory.curve, png)
    return directory.curve


def draw_learning_curve(
    rows: Sequence[Mapping[str, float]],
    *,
    title: str,
    evaluation: Mapping[str, Any] | None = None,
) -> bytes:
    """A PNG of the mean return of recent games against environment steps, and of the evaluations
    made meanwhile."""
    figure, axes = _figure()
    steps, returns = curve_points(rows, RETURN)
    window = max(1, len(steps) // 20)
    if window > 1:
        axes.plot(steps, returns, ".", color=BLUE, alpha=0.25, markersize=3, markeredgewidth=0)
        smooth = moving_average(returns, window)
        axes.plot(steps, smooth, color=BLUE, label="training, smoothed over 5 % of the run")
    elif len(steps):
        axes.plot(steps, returns, ".-", color=BLUE, label="training")
    meanwhile = [
        _Point(row["step"], row[EVALUATION], row.get(EVALUATION_LOW), row.get(EVALUATION_HIGH))
        for row in rows
        if math.isfinite(row.get(EVALUATION, math.nan))
    ]
    _points(axes, meanwhile, color=GREEN, fmt="o-", label="evaluations, 95 % interval")
    if evaluation is not None and evaluation.get("step") is not None:
        games = evaluation["protocol"]["games"]
        label = f"last evaluation, {games} games, 95 % interval"
        _points(axes, [_Point.of(evaluation)], color=VERMILION, fmt="D", label=label)
    return _png(figure, axes, title=title, label="return of recent games")


def evaluation_curve(results: Sequence[Mapping[str, Any]], path: Path, title: str) -> Path:
    """Draw evaluations of several checkpoints: mean return against step, with the 95 % intervals.

    results  what ``evaluate`` returned for each of them, in any order; one without a step, which a
             policy of unknown origin may have, is left out
    path     the PNG to write; returned
    """
    known = sorted((r for r in results if r.get("step") is not None), key=lambda r: int(r["step"]))
    figure, axes = _figure()
    games = sorted({result["protocol"]["games"] for result in known})
    counts = " to ".join(f"{count:,}" for count in dict.fromkeys(games[:1] + games[-1:]))
    label = f"mean of {counts} games, 95 % interval"
    _points(axes, list(map(_Point.of, known)), color=VERMILION, fmt="o-", label=label)
    write_file(path, _png(figure, axes, title=title, label="mean return of whole games"))
    return path


@dataclass(frozen=True, slots=True)
class _Point:
    """An evaluation; its ends are None or NaN where it has no interval."""

    step: float
    mean: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> "_Point":
        low, high = result["summary"]["interval"] or (None, None)
        return cls(result["step"], result["summary"]["mean"], low, high)

    def lengths(self) -> tuple[float, float]:
        """How far its interval reaches down and up."""
        low, high = (
            self.mean if end is None or math.isnan(end) else end for end in (self.low, self.high)
        )
        return max(self.mean - low, 0.0), max(high - self.mean, 0.0)


def _points(axes: Any, points: Sequence[_Point], *, color: str, fmt: str, label: str) -> None:
    if points:
        axes.errorbar(
            [point.step for point in points],
            [point.mean for point in points],
            yerr=np.transpose([point.lengths() for point in points]),
            color=color,
            fmt=fmt,
            label=label,
            linewidth=1,
            markersize=5,
            capsize=3,
            clip_on=False,  # a point at step 0 is whole
            zorder=3,
        )


def validation_curve(rows: Sequence[Mapping[str, float]], *, title: str, measure: str) -> bytes:
    """A PNG of a sequence task's measure on its validation split against gradient steps."""
    figure, axes = _figure()
    steps, values = curve_points(rows, VALIDATION)
    if len(steps):
        axes.plot(steps, values, "o-", color=BLUE, markersize=3, linewidth=1.5, label="validation")
    label = f"{measure} on the validation split"
    return _png(figure, axes, title=title, label=label, steps="gradient steps")


def compare_learning_curves(
    runs: Mapping[str, Sequence[Sequence[Mapping[str, float]]]],
    *,
    title: str,
    metric: str = RETURN,
    label: str = "return of recent games",
) -> bytes:
    """A PNG with one line for each run, smoothed over a twentieth of it.

    runs  what is compared → the rows of metrics.jsonl of its runs, which share a colour
    """
    if len(runs) > len(PALETTE):
        raise ValueError(f"runs: got {len(runs)} variants, expected {len(PALETTE)} or fewer")
    figure, axes = _figure()
    for color, (name, group) in zip(PALETTE, runs.items(), strict=False):
        for number, rows in enumerate(group):
            steps, values = curve_points(rows, metric)
            smooth = moving_average(values, max(1, len(values) // 20))
            axes.plot(steps, smooth, color=color, alpha=0.85, label=None if number else name)
    return _png(figure, axes, title=title, label=label)


def _figure() -> tuple[Any, Any]:
    """An empty figure and its axes; ImportError where matplotlib is missing."""
    figure = new_figure((7.2, 4.2))
    return figure, figure.add_subplot()


def new_figure(size: tuple[float, float]) -> Any:
    """An empty figure of this size in inches; ImportError where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib: pip install 'fwp-rl[reports]'", name="matplotlib"
        ) from error
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain_texts() -> AbstractContextManager[object]:
    """Where a picture is drawn: names are text, though they may hold two dollar signs, between
    which matplotlib would expect a formula. PDF embeds fonts as TrueType (type 42): publishers
    refuse type 3."""
    import matplotlib

    return matplotlib.rc_context({"text.parse_math": False, "pdf.fonttype": 42})


def curve_points(rows: Sequence[Mapping[str, float]], metric: str) -> tuple[Floats, Floats]:
    """Steps, and the metric's values at those where it is a number that can be computed with."""
    points = [(row["step"], row[metric]) for row in rows if abs(row.get(metric, math.nan)) < 1e300]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def _png(
    figure: Any, axes: Any, *, title: str, label: str, steps: str = "environment steps"
) -> bytes:
    """Title, axes and legend, the same in all pictures; the finished file."""
    with plain_texts():
        return _finished(figure, axes, title=title, label=label, steps=steps)


def _finished(figure: Any, axes: Any, *, title: str, label: str, steps: str) -> bytes:
    from matplotlib.ticker import FuncFormatter

    if axes.has_data():
        axes.legend(frameon=False, loc="best")
    else:
        axes.text(0.5, 0.5, "no game has ended yet", ha="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
    # parse_math: the title is made before the block begins
    axes.set_title(plain(title), loc="left", fontsize="medium", parse_math=False)
    axes.set_xlabel(steps)
    axes.set_ylabel(label)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: format_count(x)))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def moving_average(values: Floats, window: int) -> Floats:
    """Mean of each value and its neighbours, ``window`` in all, fewer at the ends."""
    kernel = np.ones(window)
    total = np.convolve(values, kernel, mode="same")
    smooth: Floats = total / np.convolve(np.ones_like(values), kernel, mode="same")
    return smooth
