"""The numbers of a report: curves over seeds, and what the scores over all tasks come to.

What the runs cannot show is left out and said in ``notes``: intervals and probabilities of
improvement from fewer than 5 runs, statistics of a single score, curves of a single point.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from fwp_rl.reports.plots import Floats, moving_average
from fwp_rl.reports.records import Record, Records
from fwp_rl.reports.sources import plain
from fwp_rl.reports.statistics import (
    MIN_RUNS,
    Estimate,
    Profile,
    Scores,
    aggregate,
    mean_interval,
    normalized_score,
    performance_profile,
    probability_of_improvement,
    why_no_interval,
)

__all__ = ["CURVE_STEPS", "Band", "Comparison", "Curve", "compare"]

Band: TypeAlias = Literal["range", "interval"]
"""What is drawn around a mean over runs: from the lowest to the highest, or its 95 % interval."""
CURVE_STEPS = 200
"""Of a mean over runs."""
_NAMED = 5
"""Names that a note gives."""
_SHORT = 0.9
"""Share of its longest run that a curve must reach for its end not to be told."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The mean over runs at some steps, one at least, and the lowest and the highest run there;
    ``low`` and ``high`` are the interval of the mean, None below 5 runs. All [steps]."""

    steps: Floats
    value: Floats
    lowest: Floats
    highest: Floats
    low: Floats | None
    high: Floats | None
    runs: int

    def band(self, kind: Band) -> tuple[Floats, Floats] | None:
        """Its lower and its upper edge; None where there is none."""
        if kind == "range":
            return None if self.runs == 1 else (self.lowest, self.highest)
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a report shows of all runs together.

    curves       task → label → its curve; what has none is left out
    scores       label → the normalised scores of the tasks that every label has
    aggregates   label → aggregate → estimate; empty where every label has a single score
    profiles     label → its profile; empty likewise
    improvement  label → label → probability that a run of the one beats one of the other, of the
                 labels with 5 runs of every task
    notes        what has to be said of all this, in sentences
    """

    curves: Mapping[str, Mapping[str, Curve]]
    scores: Mapping[str, Scores]
    aggregates: Mapping[str, Mapping[str, Estimate]]
    profiles: Mapping[str, Profile]
    improvement: Mapping[str, Mapping[str, Estimate]]
    notes: Sequence[str]

    def counts(self, label: str) -> list[int]:
        """Normalised scores of a label, task by task."""
        return [np.size(np.asarray(runs)) for runs in self.scores[label].values()]


def compare(records: Records) -> Comparison:
    """All of it."""
    curves, of_curves = _curves(records)
    scores, of_scores = _normalized(records)
    notes = [*records.notes, *_repeated(records), *of_scores]
    aggregates: dict[str, dict[str, Estimate]] = {}
    profiles: dict[str, Profile] = {}
    if scores and all(_count(of_label) == 1 for of_label in scores.values()):
        notes.append(
            "Every variant has a single score, so there is nothing to aggregate: the table of "
            "scores says it all. More seeds, or more tasks, make a comparison."
        )
    elif scores:
        notes += _few(scores)
        aggregates = {label: aggregate(of_label) for label, of_label in scores.items()}
        levels = _levels(scores)
        profiles = {label: performance_profile(s, levels) for label, s in scores.items()}
    return Comparison(
        curves=curves,
        scores=scores,
        aggregates=aggregates,
        profiles=profiles,
        improvement=_improvement(scores),
        notes=[*notes, *of_curves],
    )


def _count(scores: Scores) -> int:
    return sum(np.size(np.asarray(runs)) for runs in scores.values())


def _few(scores: Mapping[str, Scores]) -> list[str]:
    """Why some have no intervals, and which rest on a single score."""
    notes = [why for of_label in scores.values() if (why := why_no_interval(of_label))][:1]
    if notes and len(scores) > 1:
        notes.append(
            f"Probabilities of improvement need {MIN_RUNS} runs of every task on both sides."
        )
    single = [label for label, of_label in scores.items() if _count(of_label) == 1]
    if single:
        notes.append(f"A single score, which says nothing about seeds: {_list(single)}.")
    return notes


def _levels(scores: Mapping[str, Scores]) -> Floats:
    """Thresholds of a profile: from 0 to 1, or as far as scores lie beyond."""
    values = [np.asarray(runs) for of_label in scores.values() for runs in of_label.values()]
    lowest, top = min(v.min() for v in values), max(v.max() for v in values)
    return np.linspace(min(0.0, lowest), max(1.0, top), 101)


def _improvement(scores: Mapping[str, Scores]) -> dict[str, dict[str, Estimate]]:
    enough = {label: s for label, s in scores.items() if why_no_interval(s) is None}
    if len(enough) < 2:
        return {}
    return {
        a: {b: probability_of_improvement(enough[a], enough[b]) for b in enough if b != a}
        for a in enough
    }


def _normalized(records: Records) -> tuple[dict[str, Scores], list[str]]:
    """Label → task → normalised scores, for the tasks that every label has; and what to say."""
    found: dict[str, dict[str, list[float]]] = {}
    without: dict[str, None] = {}
    unscored = []
    for run in records.runs:
        if run.score is None:
            unscored.append(plain(run.path.name))
            continue
        value = normalized_score(run.config, run.score.mean)
        if value is None:
            without[run.task] = None
        else:
            found.setdefault(run.label, {}).setdefault(run.task, []).append(value)
    notes = []
    if unscored:
        notes.append(
            f"No score, for their last checkpoint was not evaluated ({len(unscored)} of "
            f"{len(records.runs)} runs): {_list(unscored)}."
        )
    if without:
        notes.append(
            f"Without known bounds, and so left out of comparisons over tasks: {_list(without)}."
        )
    everywhere = [t for t in records.tasks if found and all(t in s for s in found.values())]
    if not everywhere:
        none = "No task was run by every variant" if found else "No run has a normalised score"
        return {}, [*notes, f"{none}, so there is nothing to compare over tasks."]
    somewhere = {task for of_label in found.values() for task in of_label}
    partial = [task for task in records.tasks if task in somewhere and task not in everywhere]
    if partial:
        notes.append(
            "Not run by every variant, and so left out of comparisons over tasks: "
            f"{_list(partial)}."
        )
    return {label: {task: s[task] for task in everywhere} for label, s in found.items()}, notes


def _repeated(records: Records) -> list[str]:
    """Runs that another run of the same label, task and seed stands beside."""
    seen: set[tuple[str, str, int]] = set()
    again = []
    for run in records.runs:
        key = (run.label, run.task, run.seed)
        if key in seen:
            again.append(f"{run.label} on {run.task}, seed {run.seed}")
        seen.add(key)
    if not again:
        return []
    return [f"Counted more than once with the same seed: {_list(dict.fromkeys(again))}."]


def _curves(records: Records) -> tuple[dict[str, dict[str, Curve]], list[str]]:
    """Task → label → curve, and what to say of those that are short, a point, or missing."""
    curves: dict[str, dict[str, Curve]] = {}
    none, points, cut = [], [], []
    for task in records.tasks:
        for label in records.labels:
            runs = records.of(label, task)
            lines = [run for run in runs if len(run.curve[0]) > 1]
            single = [run for run in runs if len(run.curve[0]) == 1]
            none += [plain(run.path.name) for run in runs if not len(run.curve[0])]
            points += [plain(run.path.name) for run in single]
            curve = _mean_curve(lines) or _mean_point(single)
            if curve is None:
                if lines:
                    cut.append(f"{label} on {task} (its runs have no step in common)")
                continue
            curves.setdefault(task, {})[label] = curve
            longest = max((run.curve[0][-1] for run in lines), default=0.0)
            if lines and curve.steps[-1] < _SHORT * longest:
                cut.append(f"{label} on {task} at step {curve.steps[-1]:,.0f} of {longest:,.0f}")
    notes = []
    if none:
        notes.append(f"No learning curve, for nothing was measured yet: {_list(none)}.")
    if points:
        notes.append(
            "A learning curve of a single point, which is drawn as a mark, or left out where "
            f"other seeds have a line: {_list(points)}."
        )
    if cut:
        notes.append(f"Curves end where their shortest run does: {_list(cut)}.")
    return curves, notes


def _mean_curve(runs: Sequence[Record]) -> Curve | None:
    """Runs log at steps of their own: their mean at common steps, up to where the shortest ends.
    None where they have none in common."""
    if not runs:
        return None
    start, end = max(r.curve[0][0] for r in runs), min(r.curve[0][-1] for r in runs)
    if end <= start:
        return None
    grid = np.linspace(start, end, CURVE_STEPS)
    return _curve(grid, np.stack([np.interp(grid, r.curve[0], _smooth(r.curve[1])) for r in runs]))


def _smooth(values: Floats) -> Floats:
    return moving_average(values, max(1, len(values) // 20))


def _mean_point(runs: Sequence[Record]) -> Curve | None:
    """At the mean of their steps."""
    if not runs:
        return None
    steps = np.array([np.mean([run.curve[0][0] for run in runs])])
    return _curve(steps, np.stack([run.curve[1] for run in runs]))


def _curve(steps: Floats, values: Floats) -> Curve:
    """values  [runs, steps]"""
    low, high = mean_interval(values)
    return Curve(
        steps=steps,
        value=values.mean(0),
        lowest=values.min(0),
        highest=values.max(0),
        low=low,
        high=high,
        runs=len(values),
    )


def _list(names: Iterable[str]) -> str:
    named = list(names)
    rest = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return f"{', '.join(named[:_NAMED])}{rest}"
