import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwp_rl.envs import ENVS
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.reports.statistics import (
    aggregate,
    normalized_score,
    performance_profile,
    probability_of_improvement,
)

scores_of_runs = st.lists(st.floats(-3, 30).map(lambda x: round(x, 2)), min_size=1, max_size=7)
ragged = st.dictionaries(st.text(min_size=1, max_size=3), scores_of_runs, min_size=1, max_size=5)


def draws(runs: int, tasks: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"t{task}": rng.gamma(1 + task % 4, 0.5, runs) for task in range(tasks)}


@settings(deadline=None)
@given(ragged)
def test_points_against_loops(scores):
    """Every run is written so often that all tasks have the same number: weights made plain."""
    lengths = [len(runs) for runs in scores.values()]
    common = int(np.lcm.reduce(lengths))
    pooled = sorted((run, 1 / len(runs)) for runs in scores.values() for run in runs)
    means = [sum(runs) / len(runs) for runs in scores.values()]
    gaps = [sum(max(0.0, 1 - run) for run in runs) / len(runs) for runs in scores.values()]
    value = {name: estimate.value for name, estimate in aggregate(scores).items()}
    assert value["mean"] == pytest.approx(sum(means) / len(means))
    assert value["median"] == pytest.approx(np.median(means))
    assert value["optimality_gap"] == pytest.approx(sum(gaps) / len(gaps))
    # the interquartile mean, cut in units of one nth of a run
    total, cut = sum(lengths), sum(lengths) // 4
    copies = [
        run
        for run, weight in pooled
        for _ in range(round(weight * common * total))  # each task: common * total copies
    ]
    all_copies = len(copies)
    cut_copies = cut * all_copies // total
    kept = copies[cut_copies : all_copies - cut_copies]
    assert value["iqm"] == pytest.approx(sum(kept) / len(kept))


@settings(deadline=None)
@given(ragged, st.data())
def test_probability_of_improvement_against_loops(x, data):
    y = {task: data.draw(scores_of_runs) for task in x}
    wins = [
        np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a in x[task] for b in y[task]])
        for task in x
    ]
    forth = probability_of_improvement(x, y).value
    assert forth == pytest.approx(np.mean(wins))
    assert forth + probability_of_improvement(y, x).value == pytest.approx(1)
    assert probability_of_improvement(x, x).value == pytest.approx(0.5)


def test_intervals_against_a_bootstrap_in_a_loop():
    scores = draws(6, 3)
    rng = np.random.default_rng(7)
    iqm, gap = [], []
    for _ in range(4000):
        again = [rng.choice(runs, len(runs)) for runs in scores.values()]
        pooled = np.sort(np.concatenate(again))
        iqm.append(pooled[4:-4].mean())
        gap.append(np.mean(1 - np.minimum(pooled, 1)))
    found = aggregate(scores)
    assert found["iqm"].interval == pytest.approx(np.quantile(iqm, (0.025, 0.975)), abs=0.03)
    assert found["optimality_gap"].interval == pytest.approx(
        np.quantile(gap, (0.025, 0.975)), abs=0.02
    )


def test_profile_against_a_bootstrap_in_a_loop():
    scores = draws(8, 4)
    levels = [0.0, 0.3, 1.0, 5.0]
    rng = np.random.default_rng(3)
    drawn = [
        [
            np.mean([(rng.choice(runs, len(runs)) > level).mean() for runs in scores.values()])
            for level in levels
        ]
        for _ in range(1500)
    ]
    found = performance_profile(scores, levels)
    pooled = np.concatenate(list(scores.values()))
    assert found.value == pytest.approx([(pooled > level).mean() for level in levels])
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    assert found.low == pytest.approx(low, abs=0.04)
    assert found.high == pytest.approx(high, abs=0.04)


def test_runs_are_resampled_within_their_task():
    """Tasks apart and runs alike: every resample is the same, so the intervals are points."""
    scores = {"low": [0.0] * 5, "high": [10.0] * 5}
    for estimate in aggregate(scores).values():
        assert estimate.interval == (estimate.value, estimate.value)


def test_fewer_than_five_runs_have_points_and_a_reason():
    scores = draws(5, 3)
    scores["t1"] = scores["t1"][:4]
    for estimate in (*aggregate(scores).values(), probability_of_improvement(draws(5, 3), scores)):
        assert estimate.interval is None
        assert estimate.reason is not None
        assert "t1 has 4 runs" in estimate.reason
        assert "fewer than 5" in estimate.reason
    profile = performance_profile(scores, [0.5])
    assert profile.low is None
    assert "t1 has 4 runs" in str(profile.reason)
    assert all(e.reason is None and e.interval for e in aggregate(draws(5, 3)).values())


def test_the_same_seed_gives_the_same_interval():
    scores = draws(5, 3)
    assert aggregate(scores, seed=1) == aggregate(scores, seed=1)
    assert aggregate(scores, seed=1) != aggregate(scores, seed=2)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "got no task"),
        ({"Pong": []}, "scores of Pong"),
        ({"Pong": [1.0, float("nan")]}, "scores of Pong"),
        ({"Pong": [[1.0]]}, "scores of Pong"),
    ],
)
def test_what_is_no_score_is_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        aggregate(scores)


def test_comparing_needs_the_same_tasks():
    with pytest.raises(ValueError, match="only one of them has Pong"):
        probability_of_improvement({"Pong": [1.0], "Qbert": [1.0]}, {"Qbert": [1.0]})


@pytest.mark.parametrize(
    ("env", "low", "high"),
    [
        (AtariConfig(game="Pong"), -20.7, 14.6),
        (AtariConfig(game="pong", protocol="machado"), -20.7, 14.6),
        (ENVS["classic"](task="Catch-v0"), -1, 1),
        (ENVS["classic"](task="CartPole-v1"), 0, 500),
        (ENVS["minigrid"](), 0, 1),
        (ENVS["recall"](), 0, 1),
    ],
)
def test_tasks_are_normalised_by_their_bounds(env, low, high):
    assert env.score_bounds() == (low, high)
    assert env.human_scores() == ((low, high) if isinstance(env, AtariConfig) else None)
    assert normalized_score(env, low) == 0
    assert normalized_score(env, high) == 1
    assert normalized_score(env, (low + high) / 2) == pytest.approx(0.5)


def test_tasks_without_bounds_have_no_normalised_score():
    for env in (AtariConfig(game="Adventure"), ENVS["procgen"](), ENVS["gymnasium"]()):
        assert normalized_score(env, 1.0) is None
