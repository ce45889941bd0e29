"""Pictures of runs. matplotlib is imported here alone, and only when a picture is drawn."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fwp_rl.training.files import write_file
from fwp_rl.training.loggers import read_metrics
from fwp_rl.training.progress import format_count
from fwp_rl.training.run import RunDirectory

__all__ = ["draw_learning_curve", "learning_curve", "moving_average"]

RETURN = "charts/episode_return"

# Okabe and Ito's palette, told apart by colour-blind readers and in grey
BLUE, VERMILION = "#0072B2", "#D55E00"

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
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib: pip install 'fwp-rl[reports]'", name="matplotlib"
        ) from error

    points = [
        (row["step"], row[RETURN]) for row in rows if math.isfinite(row.get(RETURN, math.nan))
    ]
    steps, returns = np.array(points, dtype=np.float64).reshape(-1, 2).T
    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
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
    if axes.has_data():
        axes.legend(frameon=False, loc="best")
    else:
        axes.text(0.5, 0.5, "no game has ended yet", ha="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of recent games")
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
