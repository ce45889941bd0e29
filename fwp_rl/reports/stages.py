"""A picture of where time goes: bars that are made of stages."""

import io
from collections.abc import Mapping

from fwp_rl.reports.plots import PALETTE, new_figure, plain_texts

__all__ = ["draw_stages"]


def draw_stages(bars: Mapping[str, Mapping[str, float]], *, title: str, label: str) -> bytes:
    """A PNG with one bar for each entry, from the top down, cut into its stages.

    bars   name → stage → length; a stage has one colour in all bars, and there are seven at most
    label  of the axis along the bars

    ImportError where matplotlib is missing.
    """
    stages = list(dict.fromkeys(stage for bar in bars.values() for stage in bar))
    figure = new_figure((7.2, 1.5 + 0.34 * len(bars)))
    with plain_texts():
        axes = figure.add_subplot()
        places = range(len(bars))
        starts = [0.0] * len(bars)
        for stage, color in zip(stages, PALETTE, strict=False):
            lengths = [bar.get(stage, 0.0) for bar in bars.values()]
            axes.barh(places, lengths, left=starts, height=0.7, label=stage, color=color)
            starts = [start + length for start, length in zip(starts, lengths, strict=True)]
        axes.set_yticks(places, list(bars))
        axes.invert_yaxis()
        axes.set_title(title, loc="left", fontsize="medium")
        axes.set_xlabel(label)
        axes.grid(axis="x", alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=len(stages), frameon=False)
        png = io.BytesIO()
        figure.savefig(png, format="png")
    return png.getvalue()
