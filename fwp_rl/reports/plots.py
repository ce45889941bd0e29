"""Pictures of runs. matplotlib is imported here alone, and only when a picture is drawn."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.files import write_file
from fwp_rl.runs.metrics import read_metrics
from fwp_rl.terminal import format_count

__all__ = [
    "RETURN",
    "compare_learning_curves",
    "curve_points",
    "draw_learning_curve",
    "learning_curve",
    "moving_average",
    "new_figure",
]

RETURN = "charts/episode_return"

# Okabe and Ito's palette, told apart by colour-blind readers and in grey
BLUE, VERMILION = "#0072B2", "#D55E00"
PALETTE = (BLUE, VERMILION, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")

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
    png = draw_learning_curve(
        read_metrics(directory.metrics),
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
    """A PNG of the mean return of recent games against environment steps."""
    figure, axes = _figure()
    steps, returns = curve_points(rows, RETURN)
    window = max(1, len(steps) // 20)
    if window > 1:
        axes.plot(steps, returns, ".", color=BLUE, alpha=0.25, markersize=3, markeredgewidth=0)
        smooth = moving_average(returns, window)
        axes.plot(steps, smooth, color=BLUE, label=f"training, mean of {window} updates")
    elif len(steps):
        axes.plot(steps, returns, ".-", color=BLUE, label="training")
    if evaluation is not None and evaluation.get("step") is not None:
        mean, interval = evaluation["summary"]["mean"], evaluation["summary"]["interval"]
        low, high = (mean, mean) if interval is None else interval
        axes.errorbar(
            evaluation["step"],
            mean,
            yerr=[[mean - low], [high - mean]],
            fmt="D",
            color=VERMILION,
            markersize=5,
            capsize=4,
            label=f"evaluation, {evaluation['protocol']['games']} games, 95 % interval",
        )
    return _png(figure, axes, title=title, label="return of recent games")


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


def curve_points(rows: Sequence[Mapping[str, float]], metric: str) -> tuple[Floats, Floats]:
    """Steps, and the metric's values at those where it is finite."""
    points = [
        (row["step"], row[metric]) for row in rows if math.isfinite(row.get(metric, math.nan))
    ]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def _png(figure: Any, axes: Any, *, title: str, label: str) -> bytes:
    """Title, axes and legend, the same in all pictures; the finished file."""
    from matplotlib.ticker import FuncFormatter

    if axes.has_data():
        axes.legend(frameon=False, loc="best")
    else:
        axes.text(0.5, 0.5, "no game has ended yet", ha="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_xlabel("environment steps")
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
