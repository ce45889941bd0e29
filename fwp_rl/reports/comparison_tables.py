"""The tables of a comparison: its curves, aggregates, profiles and probabilities, as numbers."""

from collections.abc import Sequence

from fwp_rl.reports.comparison import Comparison
from fwp_rl.reports.statistics import Estimate
from fwp_rl.reports.table import Cell, Column, Table, Value, number, span, table, text
from fwp_rl.reports.tables import SPREAD

__all__ = ["AGGREGATES", "aggregates", "curves", "improvement", "profiles"]

AGGREGATES = {
    "iqm": "IQM",
    "median": "median",
    "mean": "mean",
    "optimality_gap": "optimality gap ↓",
}
"""Aggregate → what it is called."""


def curves(compared: Comparison) -> Table:
    """Every point of the learning curves."""
    rows: list[Sequence[Value]] = []
    for task, by_label in compared.curves.items():
        for label, curve in by_label.items():
            for at, step in enumerate(curve.steps):
                low = None if curve.low is None else float(curve.low[at])
                high = None if curve.high is None else float(curve.high[at])
                means = (curve.runs, float(curve.value[at]), low, high)
                ends = (float(curve.lowest[at]), float(curve.highest[at]))
                rows.append([task, label, float(step), *means, *ends])
    return table("curves", "Learning curves", "", fields=f"task variant step {SPREAD}", rows=rows)


def aggregates(compared: Comparison) -> Table:
    """IQM, median, mean and optimality gap of every variant."""
    rows: list[Sequence[Value]] = []
    for name in AGGREGATES:
        for label, estimates in compared.aggregates.items():
            counts = compared.counts(label)
            rows.append([label, name, sum(counts), len(counts), *_ends(estimates[name])])
    return table(
        "aggregates",
        "Over all tasks, in numbers",
        "Of normalised scores; 95 % stratified-bootstrap intervals, where every task has 5 runs.",
        fields="variant measure n tasks value low high",
        rows=rows,
        columns=[
            text("variant"),
            Column("measure", lambda row: Cell(AGGREGATES[str(row["measure"])])),
            *(number("n", "runs"), number("tasks"), number("value", form=".3f")),
            span("low", "high", "95 % interval", ".3f"),
        ],
    )


def profiles(compared: Comparison) -> Table:
    """Every point of the performance profiles."""
    rows: list[Sequence[Value]] = []
    for label, profile in compared.profiles.items():
        n = sum(compared.counts(label))
        for at, threshold in enumerate(profile.thresholds):
            low = None if profile.low is None else float(profile.low[at])
            high = None if profile.high is None else float(profile.high[at])
            rows.append([label, float(threshold), n, float(profile.value[at]), low, high])
    fields = "variant threshold n value low high"
    return table("profiles", "Performance profiles", "", fields=fields, rows=rows)


def improvement(compared: Comparison) -> Table:
    """Probability that a run of one variant beats a run of another on the same task."""
    rows: list[Sequence[Value]] = [
        [label, other, *(sum(compared.counts(name)) for name in (label, other)), *_ends(estimate)]
        for label, others in compared.improvement.items()
        for other, estimate in others.items()
    ]
    return table(
        "improvement",
        "Probability of improvement, in numbers",
        "That a run of the one scores more than a run of the other, on a task drawn at random.",
        fields="variant other n n_other value low high",
        rows=rows,
        columns=[
            *(text("variant"), text("other", "over"), number("value", form=".2f")),
            span("low", "high", "95 % interval", ".2f"),
        ],
    )


def _ends(estimate: Estimate) -> tuple[float, float | None, float | None]:
    return (estimate.value, *(estimate.interval or (None, None)))
