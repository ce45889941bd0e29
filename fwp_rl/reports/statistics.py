"""Comparing agents over tasks and seeds, after Agarwal et al., "Deep Reinforcement Learning at the
Edge of the Statistical Precipice" (2021).

Scores are a mapping task → normalised scores of its runs, one per seed, each the final evaluation
of the last checkpoint; the numbers of runs may differ, and every task then weighs the same.
Intervals are 95 % percentile intervals of the stratified bootstrap: runs are drawn anew within each
task, never across tasks. Where a task has fewer than 5 runs there is no interval, and ``reason``
says why. With equal numbers of runs all values are those of the library rliable, which the tests
compare them with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fwp_rl.envs.base import normalized_score

__all__ = [
    "MIN_RUNS",
    "Estimate",
    "Profile",
    "Scores",
    "aggregate",
    "mean_interval",
    "normalized_score",
    "performance_profile",
    "probability_of_improvement",
    "why_no_interval",
]

Scores = Mapping[str, ArrayLike]
"""Task → normalised scores of its runs ``[runs]``."""
Floats = NDArray[np.float64]

MIN_RUNS = 5
"""Runs that every task needs before an interval is given."""
RESAMPLES = 20_000
CONFIDENCE = 0.95

_CHUNK = 4_000_000
"""Floats that are resampled at a time, to bound memory."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its interval, or with the reason why it has none."""

    value: float
    interval: tuple[float, float] | None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Fraction of runs above each threshold; ``low`` and ``high`` are None without an interval."""

    thresholds: Floats
    value: Floats
    low: Floats | None
    high: Floats | None
    reason: str | None = None


def aggregate(scores: Scores, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Estimate]:
    """``iqm``, ``median``, ``mean`` and ``optimality_gap`` of one agent.

    iqm             mean of the middle half of all runs of all tasks
    median          median over tasks of the mean over runs
    mean            mean over tasks of the mean over runs
    optimality_gap  mean amount by which runs fall short of 1; less is better
    """
    cells = _cells(scores)
    points = _points([cells])
    return _estimates(
        lambda drawn: _aggregates(drawn[0]), points, why_no_interval(scores), resamples, seed
    )


def probability_of_improvement(
    x: Scores, y: Scores, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Probability that a run of x beats a run of y on the same task, averaged over tasks.

    A tie counts one half. The two need the same tasks; ValueError otherwise.
    """
    if set(x) != set(y):
        odd = ", ".join(sorted(set(x) ^ set(y)))
        raise ValueError(f"x and y need the same tasks; only one of them has {odd}")
    pair = [_cells(x), _cells({task: y[task] for task in x})]
    reason = why_no_interval(x) or why_no_interval(y)
    return _estimates(
        lambda drawn: {"probability": _improvement(*drawn)}, _points(pair), reason, resamples, seed
    )["probability"]


def performance_profile(
    scores: Scores,
    thresholds: Sequence[float] | Floats,
    *,
    resamples: int = 2_000,
    seed: int = 0,
) -> Profile:
    """Fraction of runs whose score lies above each threshold, every task with the same weight.

    The intervals hold for each threshold by itself.
    """
    levels = np.asarray(thresholds, np.float64)
    cells = _cells(scores)
    reason = why_no_interval(scores)
    value = np.mean([(cell[:, None] > levels).mean(0) for cell in cells], axis=0)
    if reason is not None:
        return Profile(thresholds=levels, value=value, low=None, high=None, reason=reason)
    # drawing n runs anew, the number above a level is binomial: no need to draw the runs
    above = np.stack([(cell[:, None] > levels).sum(0) for cell in cells])  # [tasks, levels]
    draws = np.zeros((resamples, len(levels)))
    rng = np.random.default_rng(seed)
    for cell, count in zip(cells, above, strict=True):
        draws += rng.binomial(len(cell), count / len(cell), draws.shape) / len(cell)
    low, high = np.quantile(draws / len(cells), _ends(), axis=0)
    return Profile(thresholds=levels, value=value, low=low, high=high)


def mean_interval(
    values: Floats, *, resamples: int = 2_000, seed: int = 0
) -> tuple[Floats, Floats] | tuple[None, None]:
    """Ends of the interval of the mean over runs, for each point by itself; None below 5 runs.

    values  [runs, points]
    """
    runs = len(values)
    if runs < MIN_RUNS:
        return None, None
    # drawing n runs anew is drawing how often each of them comes
    weights = (
        np.random.default_rng(seed).multinomial(runs, [1 / runs] * runs, size=resamples) / runs
    )
    low, high = np.quantile(weights @ values, _ends(), axis=0)
    return low, high


def why_no_interval(scores: Scores) -> str | None:
    """The sentence to print where a task has too few runs for an interval; None where none has."""
    counts = {task: np.size(np.asarray(runs)) for task, runs in scores.items()}
    task = min(counts, key=lambda name: counts[name], default=None)
    if task is None or counts[task] >= MIN_RUNS:
        return None
    runs = f"{counts[task]} run{'s' if counts[task] != 1 else ''}"
    return (
        f"No intervals: {task} has {runs}, and drawing anew from fewer than {MIN_RUNS} gives "
        "intervals that are too narrow to be believed."
    )


def _cells(scores: Scores) -> list[Floats]:
    """The scores of each task, checked."""
    if not scores:
        raise ValueError("scores: got no task, expected at least one")
    cells = [np.asarray(runs, np.float64) for runs in scores.values()]
    for task, cell in zip(scores, cells, strict=True):
        if cell.ndim != 1 or not cell.size or not np.isfinite(cell).all():
            raise ValueError(
                f"scores of {task}: got {scores[task]!r}, expected one finite score per run"
            )
    return cells


Drawn = list[list[Floats]]
"""For each agent, for each task: ``[resamples, runs]``."""


def _points(agents: list[list[Floats]]) -> Drawn:
    return [[cell[None] for cell in cells] for cells in agents]


def _estimates(
    metrics: Callable[[Drawn], dict[str, Floats]],
    points: Drawn,
    reason: str | None,
    resamples: int,
    seed: int,
) -> dict[str, Estimate]:
    """Metrics of the scores as they are, and of resamples of them."""
    values = {name: float(value[0]) for name, value in metrics(points).items()}
    if reason is not None:
        return {name: Estimate(value=v, interval=None, reason=reason) for name, v in values.items()}
    rng = np.random.default_rng(seed)
    size = sum(cell.size for cells in points for cell in cells)
    chunk = max(1, _CHUNK // size)
    drawn = []
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        resample = [[_draw(rng, cell[0], count) for cell in cells] for cells in points]
        drawn.append(metrics(resample))
    estimates = {}
    for name, value in values.items():
        low, high = np.quantile(np.concatenate([part[name] for part in drawn]), _ends())
        estimates[name] = Estimate(value=value, interval=(float(low), float(high)))
    return estimates


def _draw(rng: np.random.Generator, cell: Floats, count: int) -> Floats:
    return cell[rng.integers(len(cell), size=(count, len(cell)))]


def _ends() -> tuple[float, float]:
    return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2


def _aggregates(cells: list[Floats]) -> dict[str, Floats]:
    """The four aggregates of each resample; cells are ``[resamples, runs]``, one per task."""
    means = np.stack([cell.mean(1) for cell in cells], axis=1)
    short = np.stack([(1 - np.minimum(cell, 1)).mean(1) for cell in cells], axis=1)
    return {
        "iqm": _interquartile_mean(cells),
        "median": np.median(means, axis=1),
        "mean": means.mean(axis=1),
        "optimality_gap": short.mean(axis=1),
    }


def _interquartile_mean(cells: list[Floats]) -> Floats:
    """Mean of what is left when a quarter of the runs, in whole runs, is cut from either end. With
    different numbers of runs, a run weighs as much as makes all tasks weigh the same."""
    pooled = np.concatenate(cells, axis=1)  # [resamples, N]
    total = pooled.shape[1]
    cut = total // 4
    if len({cell.shape[1] for cell in cells}) == 1:
        ordered = np.partition(pooled, [cut, total - cut - 1], axis=1)
        kept: Floats = ordered[:, cut : total - cut].mean(axis=1)
        return kept
    weight = np.concatenate(
        [np.full(cell.shape[1], total / (len(cells) * cell.shape[1])) for cell in cells]
    )
    order = np.argsort(pooled, axis=1)
    end = np.cumsum(weight[order], axis=1)
    start = end - weight[order]
    inside = np.clip(np.minimum(end, total - cut) - np.maximum(start, cut), 0, None)
    mean: Floats = (np.take_along_axis(pooled, order, axis=1) * inside).sum(1) / inside.sum(1)
    return mean


def _improvement(x: list[Floats], y: list[Floats]) -> Floats:
    """Cells of x ``[resamples, n]`` against those of y ``[resamples, m]``: ``[resamples]``."""
    tasks = []
    for a, b in zip(x, y, strict=True):
        wins = (np.sign(a[:, :, None] - b[:, None, :]) + 1) / 2
        tasks.append(wins.mean(axis=(1, 2)))
    mean: Floats = np.mean(tasks, axis=0)
    return mean
