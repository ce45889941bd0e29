"""What the page's own charts draw, as plain data for ``report.js``: they tell their values, and
their series can be switched off."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fwp_rl.reports.comparison import Band, Curve
from fwp_rl.reports.figures import LIGHT, Styles
from fwp_rl.reports.statistics import Profile

__all__ = ["chart_of_curves", "chart_of_profiles"]

Chart = dict[str, Any]
"""``panels``, ``styles``, ``whole``: x counts from 0 in whole numbers, ``rest``: where values are
read while nobody points; None: at the end of each series."""
Floats = NDArray[np.float64]

_DASHES = {"-": "", "--": "7 4", ":": "2 3"}


def chart_of_curves(
    curves: Mapping[str, Mapping[str, Curve]],
    styles: Styles,
    *,
    axes_of: Mapping[str, tuple[str, str]],
    band: Band,
) -> Chart:
    """A panel for each task: the mean over runs, and the band around it."""
    panels = []
    for task, by_label in curves.items():
        x, y = axes_of[task]
        series = [
            _series(label, c.steps, c.value, c.band(band), f"{c.runs} run{_s(c.runs)}")
            for label, c in by_label.items()
        ]
        panels.append({"title": task, "x": x, "y": y, "series": series})
    return {"panels": panels, "styles": _styles(styles), "whole": True, "rest": None}


def chart_of_profiles(profiles: Mapping[str, Profile], styles: Styles) -> Chart:
    """One panel: the fraction of runs above each threshold."""
    series = []
    for label, p in profiles.items():
        edges = None if p.low is None or p.high is None else (p.low, p.high)
        series.append(_series(label, p.thresholds, p.value, edges, ""))
    panel = {"title": "", "x": "normalised score τ", "y": "fraction of runs above τ"}
    panels = [panel | {"series": series}]
    return {"panels": panels, "styles": _styles(styles), "whole": False, "rest": 0.5}


def _series(
    label: str, at: Floats, value: Floats, edges: tuple[Floats, Floats] | None, note: str
) -> Chart:
    """Places are even from the first to the last."""
    low, high = (None if edges is None else _rounded(edges[end]) for end in (0, 1))
    return {
        "label": label,
        "note": note,
        "from": float(at[0]),
        "to": float(at[-1]),
        "value": _rounded(value),
        "low": low,
        "high": high,
    }


def _rounded(values: Floats) -> list[float]:
    finite = np.nan_to_num(values, posinf=1e300, neginf=-1e300)  # JSON knows no other
    return [float(f"{value:.5g}") for value in finite]


def _styles(styles: Styles) -> dict[str, Chart]:
    looks = {label: styles.of(label, LIGHT) for label in styles.labels}
    return {
        label: {
            # the text's own colour follows the page's theme
            "color": None if look["color"] == LIGHT.text else look["color"],
            "dash": _DASHES[look["linestyle"]],
        }
        for label, look in looks.items()
    }


def _s(count: int) -> str:
    return "" if count == 1 else "s"
