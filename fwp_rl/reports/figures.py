"""The figures of a report: each a function of numbers that returns a figure for ``draw``.

A figure has a layout: ``TEXT`` is as wide as the text of a paper, ``COLUMN`` as one of its two
columns, and a page shows the one on a wide screen and the other on a phone.
"""

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fwp_rl.reports.comparison import Band, Curve
from fwp_rl.reports.comparison_tables import AGGREGATES
from fwp_rl.reports.plots import new_figure, plain_texts
from fwp_rl.reports.statistics import Estimate, Profile
from fwp_rl.terminal import format_count

__all__ = ["COLUMN", "DARK", "LIGHT", "TEXT", "Draw", "Layout", "Styles", "Theme", "draw"]
__all__ += ["figure_aggregates", "figure_curves", "figure_improvement", "figure_profiles"]

# Okabe and Ito's palette, told apart by colour-blind readers; black stands last, as the text's own
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6D31", "text")
_LINES = ("-", "--", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

Floats = NDArray[np.float64]
Draw = Callable[["Theme"], Any]
Kind = Literal["png", "svg", "pdf"]
_DATES = {"svg": "Date", "pdf": "CreationDate"}


@dataclass(frozen=True)
class Theme:
    """Colours of text and of lines in the background; the background itself is transparent."""

    name: str
    text: str
    faint: str


LIGHT = Theme("light", "#1a1a1a", "#00000022")
DARK = Theme("dark", "#e8e8e8", "#ffffff2e")


@dataclass(frozen=True)
class Layout:
    """Width in inches, panels beside each other, and letters of a label in a line of its own."""

    name: str
    width: float
    across: int
    letters: int


TEXT = Layout("text", 6.75, 2, 28)
COLUMN = Layout("column", 3.25, 1, 16)


@dataclass(frozen=True)
class Styles:
    """Colour, line and marker of each label, the same in all figures. Neighbours differ in all
    three, so that colour is not needed to tell them apart."""

    labels: Sequence[str]

    def of(self, label: str, theme: Theme) -> dict[str, Any]:
        index = list(self.labels).index(label)
        color = _COLORS[index % len(_COLORS)]
        return {
            "color": theme.text if color == "text" else color,
            "linestyle": _LINES[index % len(_LINES)],
            "marker": _MARKERS[index % len(_MARKERS)],
        }


def draw(figure: Draw, kinds: Sequence[Kind], theme: Theme) -> list[bytes]:
    """The finished files: PNG on white, whatever shows it, the others transparent.

    ImportError where matplotlib is missing.
    """
    files = []
    with plain_texts():
        made = figure(theme)
        for axes in made.axes:
            axes.patch.set_alpha(0.0)
        for kind in kinds:
            out = io.BytesIO()
            # without the date, the same runs give the same bytes
            metadata = {_DATES[kind]: None} if kind in _DATES else None
            face = "white" if kind == "png" else "none"
            made.savefig(out, format=kind, facecolor=face, metadata=metadata)
            made.set_layout_engine("none")  # found once, it holds for all
            files.append(out.getvalue())
    return files


def figure_curves(
    curves: Mapping[str, Mapping[str, Curve]],
    styles: Styles,
    layout: Layout,
    *,
    axes_of: Mapping[str, tuple[str, str]],
    band: Band = "range",
) -> Draw:
    """Return against steps, a panel for each task: the mean over runs, and a band around it. A
    curve of one step is a mark with a bar.

    curves   task → label → curve
    axes_of  task → what its steps and its returns are
    """

    def figure(theme: Theme) -> Any:
        from matplotlib.ticker import FuncFormatter

        across = min(layout.across, len(curves))
        made, panels = _panels(theme, layout, math.ceil(len(curves) / across), across, height=2.1)
        lines: dict[str, Any] = {}
        for axes, (task, by_label) in zip(panels, curves.items(), strict=False):
            for label, curve in by_label.items():
                style, edges = styles.of(label, theme), curve.band(band)
                if len(curve.steps) == 1:
                    low, high = edges or (curve.value, curve.value)
                    ends = [curve.value - low, high - curve.value]
                    drawn = axes.errorbar(
                        curve.steps, curve.value, yerr=ends, capsize=2, ms=5, **style
                    )
                    drawn.lines[0].set_clip_on(False)
                    lines.setdefault(label, drawn.lines[0])
                    continue
                look = {"color": style["color"], "linestyle": style["linestyle"]}
                (lines[label],) = axes.plot(curve.steps, curve.value, lw=1.4, **look)
                if edges is not None:
                    axes.fill_between(curve.steps, *edges, color=style["color"], alpha=0.18, lw=0)
            x, y = axes_of[task]
            _finish(axes, theme, title=_lines(task, 2 * layout.letters), x=x, y=y)
            axes.set_xlim(left=0)
            axes.xaxis.get_major_locator().set_params(integer=True, nbins=5)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: format_count(x)))
        for axes in panels[len(curves) :]:
            axes.set_visible(False)
        _legend(made, lines, theme, layout)
        return made

    return figure


def figure_aggregates(
    estimates: Mapping[str, Mapping[str, Estimate]], styles: Styles, layout: Layout
) -> Draw:
    """Point and interval of each aggregate, a panel for each.

    estimates  label → aggregate → estimate
    """

    def figure(theme: Theme) -> Any:
        rows = 2 // layout.across
        names = [_lines(label, layout.letters) for label in estimates]
        made, panels = _panels(
            theme,
            layout,
            rows,
            len(AGGREGATES) // rows,
            height=0.75 + 0.12 * sum(name.count("\n") + 2 for name in names),
            share_y=True,
        )
        for axes, (key, title) in zip(panels, AGGREGATES.items(), strict=True):
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
                axes.plot(estimate.value, row, marker=style["marker"], color=style["color"], ms=5)
            axes.set_yticks(range(len(estimates)), names)
            axes.set_ylim(len(estimates) - 0.5, -0.5)
            _finish(axes, theme, title=title, x="", y="")
            axes.xaxis.get_major_locator().set_params(nbins=3)
            axes.margins(x=0.1)
        made.supxlabel("normalised score", fontsize=8, color=theme.text)
        return made

    return figure


def figure_profiles(profiles: Mapping[str, Profile], styles: Styles, layout: Layout) -> Draw:
    """Fraction of runs above each threshold."""

    def figure(theme: Theme) -> Any:
        made, (axes,) = _panels(theme, layout, 1, 1, height=2.4)
        lines: dict[str, Any] = {}
        for label, profile in profiles.items():
            style = styles.of(label, theme)
            look = {"color": style["color"], "linestyle": style["linestyle"]}
            (lines[label],) = axes.plot(profile.thresholds, profile.value, lw=1.4, **look)
            if profile.low is not None and profile.high is not None:
                ends = [profile.low, profile.high]
                axes.fill_between(profile.thresholds, *ends, color=style["color"], alpha=0.18, lw=0)
        _finish(axes, theme, title="", x="normalised score τ", y="fraction of runs above τ")
        axes.set_ylim(-0.02, 1.02)
        _legend(made, lines, theme, layout)
        return made

    return figure


def figure_improvement(matrix: Mapping[str, Mapping[str, Estimate]], layout: Layout) -> Draw:
    """How probable it is that a run of the row beats one of the column.

    matrix  label → label → estimate
    """

    def figure(theme: Theme) -> Any:
        labels = list(matrix)
        names = [_lines(label, layout.letters) for label in labels]
        made, (axes,) = _panels(theme, layout, 1, 1, height=1.3 + 0.36 * len(labels))
        values = np.full((len(labels), len(labels)), np.nan)
        for i, row in enumerate(labels):
            for j, column in enumerate(labels):
                if row != column:
                    values[i, j] = matrix[row][column].value
        axes.imshow(values, cmap="PuOr", vmin=0, vmax=1, alpha=0.85, aspect="auto")
        size = 8 if len(labels) * 0.5 < layout.width else 5
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                ink = "#ffffff" if abs(value - 0.5) > 0.3 else "#1a1a1a"
                middle = {"ha": "center", "va": "center"}
                axes.text(j, i, f"{value:.2f}", color=ink, fontsize=size, **middle)
        axes.set_xticks(range(len(labels)), names, rotation=35, ha="right")
        axes.set_yticks(range(len(labels)), names)
        _finish(axes, theme, title="P(row > column)", x="", y="")
        axes.grid(False)
        return made

    return figure


def _panels(
    theme: Theme, layout: Layout, rows: int, across: int, *, height: float, share_y: bool = False
) -> tuple[Any, list[Any]]:
    """height  of a panel, in inches"""
    figure = new_figure((layout.width, height * rows))
    axes = figure.subplots(rows, across, squeeze=False, sharey=share_y)
    return figure, list(axes.flat)


def _finish(axes: Any, theme: Theme, *, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=8.5, color=theme.text)
    axes.set_xlabel(x, fontsize=8, color=theme.text)
    axes.set_ylabel(y, fontsize=8, color=theme.text)
    axes.tick_params(colors=theme.text, labelsize=7)
    axes.grid(color=theme.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.faint)


def _lines(label: str, letters: int) -> str:
    """A label on two lines of so many letters at most; what is longer ends in an ellipsis."""
    lines = textwrap.wrap(label, letters) or [label]
    return "\n".join(lines[:2]) + ("…" if len(lines) > 2 else "")


def _legend(figure: Any, lines: Mapping[str, Any], theme: Theme, layout: Layout) -> None:
    """One legend for all panels, below them, in as many columns as fit; the figure grows by it.

    lines  label → one of its lines. matplotlib's own list would lack labels that begin with _
    """
    if not lines:
        return
    renderer = figure.canvas.get_renderer()
    names = [_lines(label, 2 * layout.letters) for label in lines]
    for columns in range(min(4, len(lines)), 0, -1):
        legend = figure.legend(
            lines.values(),
            names,
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=7.5,
            labelcolor=theme.text,
            columnspacing=1.2,
        )
        box = legend.get_window_extent(renderer)
        if columns == 1 or box.width <= figure.bbox.width:
            figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)
            return
        legend.remove()
