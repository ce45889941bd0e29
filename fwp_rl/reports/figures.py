"""The figures of a report: each a function of numbers that returns a figure for ``draw``."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fwp_rl.reports.plots import new_figure, plain_texts
from fwp_rl.reports.statistics import Estimate, Profile
from fwp_rl.terminal import format_count

__all__ = ["DARK", "LIGHT", "Styles", "Theme", "draw", "figure_aggregates", "figure_curves"]
__all__ += ["figure_improvement", "figure_profiles"]

# Okabe and Ito's palette, told apart by colour-blind readers; black stands last, as the text's own
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6D31", "text")
_LINES = ("-", "--", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

Floats = NDArray[np.float64]
Draw = Callable[["Theme"], Any]


@dataclass(frozen=True)
class Theme:
    """Colours of text and of lines in the background; the background itself is transparent."""

    name: str
    text: str
    faint: str


LIGHT = Theme("light", "#1a1a1a", "#00000022")
DARK = Theme("dark", "#e8e8e8", "#ffffff2e")


@dataclass(frozen=True)
class Styles:
    """Colour, line and marker of each label, the same in all figures."""

    labels: Sequence[str]

    def of(self, label: str, theme: Theme) -> dict[str, Any]:
        index = list(self.labels).index(label)
        color = _COLORS[index % len(_COLORS)]
        return {
            "color": theme.text if color == "text" else color,
            "linestyle": _LINES[index // len(_COLORS) % len(_LINES)],
            "marker": _MARKERS[index % len(_MARKERS)],
        }


def draw(figure: Draw, kind: Literal["png", "svg"], theme: Theme) -> bytes:
    """The finished file; ImportError where matplotlib is missing."""
    out = io.BytesIO()
    # without the date, the same runs give the same bytes
    metadata = {"Date": None} if kind == "svg" else None
    with plain_texts():
        figure(theme).savefig(out, format=kind, transparent=True, metadata=metadata)
    return out.getvalue()


def figure_curves(
    curves: Mapping[str, Mapping[str, Sequence[tuple[Floats, Floats]]]],
    styles: Styles,
    *,
    axes_of: Mapping[str, tuple[str, str]],
) -> Draw:
    """Return against steps, a panel for each task: the mean over runs, and from the lowest to the
    highest of them.

    curves   task → label → for each run its steps and its returns
    axes_of  task → what its steps and its returns are
    """

    def figure(theme: Theme) -> Any:
        columns = min(2, len(curves))
        rows = math.ceil(len(curves) / columns)
        made, panels = _panels(theme, rows, columns, width=4.6, height=3.1)
        lines: dict[str, Any] = {}
        for axes, (task, by_label) in zip(panels, curves.items(), strict=False):
            for label, runs in by_label.items():
                style = styles.of(label, theme)
                steps, returns = _on_one_grid(runs)
                if not len(steps):
                    continue
                (lines[label],) = axes.plot(
                    steps,
                    returns.mean(axis=0),
                    color=style["color"],
                    linestyle=style["linestyle"],
                )
                if len(returns) > 1:
                    axes.fill_between(
                        steps,
                        returns.min(0),
                        returns.max(0),
                        color=style["color"],
                        alpha=0.18,
                        lw=0,
                    )
            x, y = axes_of[task]
            _finish(axes, theme, title=task, x=x, y=y)
            axes.xaxis.set_major_formatter(lambda x, _: format_count(x))
        for axes in panels[len(curves) :]:
            axes.set_visible(False)
        _legend(made, lines, theme)
        return made

    return figure


def figure_aggregates(estimates: Mapping[str, Mapping[str, Estimate]], styles: Styles) -> Draw:
    """Point and interval of each aggregate, a panel for each.

    estimates  label → aggregate → estimate
    """
    titles = {
        "iqm": "IQM",
        "median": "median",
        "mean": "mean",
        "optimality_gap": "optimality gap ↓",
    }

    def figure(theme: Theme) -> Any:
        made, panels = _panels(
            theme, 1, len(titles), width=2.5, height=0.9 + 0.32 * len(estimates), share_y=True
        )
        for axes, (key, title) in zip(panels, titles.items(), strict=True):
            for row, (label, of_label) in enumerate(estimates.items()):
                estimate, style = of_label[key], styles.of(label, theme)
                if estimate.interval is not None:
                    axes.plot(
                        estimate.interval,
                        [row, row],
                        color=style["color"],
                        lw=5,
                        alpha=0.45,
                        solid_capstyle="butt",
                    )
                axes.plot(estimate.value, row, marker=style["marker"], color=style["color"], ms=6)
            axes.set_yticks(range(len(estimates)), list(estimates))
            axes.set_ylim(len(estimates) - 0.5, -0.5)
            _finish(axes, theme, title=title, x="normalised score", y="")
        return made

    return figure


def figure_profiles(profiles: Mapping[str, Profile], styles: Styles) -> Draw:
    """Fraction of runs above each threshold."""

    def figure(theme: Theme) -> Any:
        made, (axes,) = _panels(theme, 1, 1, width=6.4, height=3.6)
        lines: dict[str, Any] = {}
        for label, profile in profiles.items():
            style = styles.of(label, theme)
            (lines[label],) = axes.plot(
                profile.thresholds,
                profile.value,
                color=style["color"],
                linestyle=style["linestyle"],
            )
            if profile.low is not None and profile.high is not None:
                axes.fill_between(
                    profile.thresholds,
                    profile.low,
                    profile.high,
                    color=style["color"],
                    alpha=0.18,
                    lw=0,
                )
        _finish(axes, theme, title="", x="normalised score τ", y="fraction of runs with score > τ")
        axes.set_ylim(-0.02, 1.02)
        _legend(made, lines, theme)
        return made

    return figure


def figure_improvement(matrix: Mapping[str, Mapping[str, Estimate]]) -> Draw:
    """How probable it is that a run of the row beats one of the column.

    matrix  label → label → estimate
    """

    def figure(theme: Theme) -> Any:
        labels = list(matrix)
        size = max(3.2, 0.75 * len(labels) + 1.8)
        made, (axes,) = _panels(theme, 1, 1, width=size + 1.2, height=size)
        values = np.full((len(labels), len(labels)), np.nan)
        for i, row in enumerate(labels):
            for j, column in enumerate(labels):
                if row != column:
                    values[i, j] = matrix[row][column].value
        axes.imshow(values, cmap="PuOr", vmin=0, vmax=1, alpha=0.85)
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = abs(value - 0.5) > 0.3
                axes.text(
                    j,
                    i,
                    f"{value:.2f}",
                    ha="center",
                    va="center",
                    color="#ffffff" if dark else "#1a1a1a",
                    fontsize=9,
                )
        axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        _finish(axes, theme, title="P(row > column)", x="", y="")
        axes.grid(False)
        return made

    return figure


def _on_one_grid(runs: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Runs log at steps of their own: returns at common steps, up to where the shortest run ends.
    steps [N], returns [runs, N]"""
    runs = [(steps, values) for steps, values in runs if len(steps) > 1]
    if not runs:
        return np.empty(0), np.empty((0, 0))
    start, end = max(s[0] for s, _ in runs), min(s[-1] for s, _ in runs)
    if end <= start:
        return np.empty(0), np.empty((0, 0))
    grid = np.linspace(start, end, 200)
    return grid, np.stack([np.interp(grid, steps, values) for steps, values in runs])


def _panels(
    theme: Theme, rows: int, columns: int, *, width: float, height: float, share_y: bool = False
) -> tuple[Any, list[Any]]:
    figure = new_figure((width * columns, height * rows))
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    return figure, list(axes.flat)


def _finish(axes: Any, theme: Theme, *, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=theme.text)
    axes.set_xlabel(x, fontsize=9, color=theme.text)
    axes.set_ylabel(y, fontsize=9, color=theme.text)
    axes.tick_params(colors=theme.text, labelsize=8)
    axes.grid(color=theme.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.faint)


def _legend(figure: Any, lines: Mapping[str, Any], theme: Theme) -> None:
    """One legend for all panels, below them.

    lines  label → one of its lines. matplotlib's own list would lack labels that begin with _
    """
    if lines:
        # about 11 characters of this size are an inch
        room = figure.get_figwidth() * 11 / (max(map(len, lines)) + 7)
        figure.legend(
            lines.values(),
            lines.keys(),
            loc="outside lower center",
            ncols=min(4, len(lines), max(1, int(room))),
            frameon=False,
            fontsize=9,
            labelcolor=theme.text,
        )
