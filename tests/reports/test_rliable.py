"""Our statistics against rliable, which pulls in pandas and more: the extra ``rliable`` holds it,
and .ci/run installs that and runs this file."""

import numpy as np
import pytest

from fwp_rl.reports.statistics import aggregate, performance_profile, probability_of_improvement

pytest.importorskip("rliable", reason="pip install -e '.[rliable]', as .ci/run does")

from rliable import library, metrics

RESAMPLES = 20_000
MEASURES = {
    "iqm": metrics.aggregate_iqm,
    "median": metrics.aggregate_median,
    "mean": metrics.aggregate_mean,
    "optimality_gap": metrics.aggregate_optimality_gap,
}


def as_mapping(matrix: np.ndarray) -> dict[str, np.ndarray]:
    return {f"task {number}": runs for number, runs in enumerate(matrix.T)}


def matrix(runs: int, tasks: int, seed: int) -> np.ndarray:
    """[runs, tasks], with ties."""
    rng = np.random.default_rng(seed)
    return np.round(rng.gamma(2, 0.4, (runs, tasks)) * rng.uniform(0.3, 1.5, tasks), 1)


@pytest.mark.parametrize(("runs", "tasks"), [(1, 1), (2, 3), (5, 1), (5, 26), (7, 57), (10, 4)])
def test_points_are_rliables(runs, tasks):
    x, y = matrix(runs, tasks, 1), matrix(runs + 1, tasks, 2)
    ours = aggregate(as_mapping(x), resamples=10)
    for name, measure in MEASURES.items():
        assert ours[name].value == pytest.approx(measure(x), abs=1e-9)
    improvement = probability_of_improvement(as_mapping(x), as_mapping(y), resamples=10)
    assert improvement.value == pytest.approx(metrics.probability_of_improvement(x, y), abs=1e-9)
    levels = np.linspace(-0.5, 3, 29)
    theirs = library.run_score_deviation  # fraction of runs above each level
    assert performance_profile(as_mapping(x), levels, resamples=10).value == pytest.approx(
        [theirs(x, level) for level in levels], abs=1e-9
    )


def test_interval_ends_are_rliables():
    x, y = matrix(5, 6, 3), matrix(5, 6, 4)

    def all_four(scores: np.ndarray) -> np.ndarray:
        return np.array([measure(scores) for measure in MEASURES.values()])

    _, ends = library.get_interval_estimates(
        {"x": x}, all_four, reps=RESAMPLES, random_state=np.random.RandomState(0)
    )
    ours = aggregate(as_mapping(x), resamples=RESAMPLES)
    for column, name in enumerate(MEASURES):
        assert ours[name].interval == pytest.approx(ends["x"][:, column], abs=0.02)

    _, ends = library.get_interval_estimates(
        {"x,y": (x, y)},
        metrics.probability_of_improvement,
        reps=2_000,  # rliable's takes a millisecond and more for each
        random_state=np.random.RandomState(0),
    )
    improvement = probability_of_improvement(as_mapping(x), as_mapping(y), resamples=RESAMPLES)
    assert improvement.interval == pytest.approx(ends["x,y"][:, 0], abs=0.02)
