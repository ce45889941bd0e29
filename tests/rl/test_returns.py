"""GAE, Q(λ) and V-trace against slow oracles that look like the papers' equations, by episode."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fwp_rl.rl.returns import gae, q_lambda, v_trace

GAMMA, LAM = 0.9, 0.8


def oracle(
    reward: NDArray[np.float64],
    value: NDArray[np.float64],
    terminated: NDArray[np.bool_],
    mask: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """A[t] = Σ_l (γλ)^l δ[t+l] over the rest of t's own episode within the rollout, one column."""
    steps = len(reward)
    advantage = np.zeros(steps)
    for t in range(steps):
        if not mask[t]:
            continue
        for later in range(t, steps):
            if not mask[later]:  # the dummy after the episode's end
                break
            following = 0.0 if terminated[later] else value[later + 1]
            delta = reward[later] + GAMMA * following - value[later]
            advantage[t] += (GAMMA * LAM) ** (later - t) * delta
            if terminated[later]:
                break
    return advantage


def column(
    ends: dict[int, str], steps: int, dummy_first: bool, seed: int
) -> tuple[NDArray[Any], ...]:
    """A stream with an episode end at each given index and a dummy step after it."""
    rng = np.random.default_rng(seed)
    mask = np.ones(steps, bool)
    terminated = np.zeros(steps, bool)
    truncated = np.zeros(steps, bool)
    mask[0] = not dummy_first
    for t in range(steps):
        if mask[t] and t in ends:
            (terminated if ends[t] == "terminated" else truncated)[t] = True
            if t + 1 < steps:
                mask[t + 1] = False
    reward = np.where(mask, rng.normal(size=steps), 0.0)
    return reward, rng.normal(size=steps + 1), terminated, truncated, mask


def run(*stream: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Targets and advantages of one column (reward, value, terminated, mask)."""
    reward, value, terminated, mask = stream
    tensors = [torch.from_numpy(x[:, None].copy()) for x in (reward, value, mask)]
    discount = GAMMA * torch.from_numpy(~terminated[:, None]).double()
    target, advantage = gae(tensors[0], discount, tensors[1], tensors[2], lam=LAM)
    return target[:, 0].numpy(), advantage[:, 0].numpy()


@settings(max_examples=200, deadline=None)
@given(
    steps=st.integers(1, 17),
    ends=st.dictionaries(st.integers(0, 16), st.sampled_from(["terminated", "truncated"])),
    dummy_first=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_gae_equals_the_oracle(
    steps: int, ends: dict[int, str], dummy_first: bool, seed: int
) -> None:
    """Ends of both kinds at every position, the first and last step of the rollout included."""
    reward, value, terminated, _, mask = column(ends, steps, dummy_first, seed)
    target, advantage = run(reward, value, terminated, mask)
    np.testing.assert_allclose(advantage, oracle(reward, value, terminated, mask), atol=1e-12)
    np.testing.assert_allclose(target, value[:-1] + advantage, atol=1e-12)


def test_a_truncated_step_bootstraps_from_the_dummy_alone() -> None:
    reward, value, terminated, truncated, mask = column({2: "truncated"}, 6, False, 0)
    assert truncated[2]
    assert not mask[3]
    _, advantage = run(reward, value, terminated, mask)
    assert advantage[2] == pytest.approx(reward[2] + GAMMA * value[3] - value[2])
    assert advantage[3] == 0
    changed = reward.copy()
    changed[4:] += 100  # the next episode
    assert (run(changed, value, terminated, mask)[1][:4] == advantage[:4]).all()


def test_a_nan_at_a_dummy_or_after_a_termination_does_not_leak() -> None:
    reward, value, terminated, _, mask = column({2: "terminated"}, 6, False, 0)
    _, clean = run(reward, value, terminated, mask)
    reward[3] = np.nan
    _, advantage = run(reward, value, terminated, mask)
    np.testing.assert_array_equal(advantage, clean)


def test_lambda_one_gives_discounted_returns_minus_values() -> None:
    rng = np.random.default_rng(1)
    reward, value = (
        torch.from_numpy(rng.normal(size=(5, 3))),
        torch.from_numpy(rng.normal(size=(6, 3))),
    )
    mask = torch.ones(5, 3, dtype=torch.bool)
    target, _ = gae(reward, torch.full((5, 3), GAMMA), value, mask, lam=1.0)
    expected = value[5]
    for t in range(4, -1, -1):
        expected = reward[t] + GAMMA * expected
        torch.testing.assert_close(target[t], expected, rtol=1e-6, atol=1e-6)


def test_no_gradient_flows_into_targets() -> None:
    value = torch.zeros(3, 1, requires_grad=True)
    ones = torch.ones(2, 1)
    target, advantage = gae(ones, ones, value, ones.bool(), lam=0.5)
    assert not target.requires_grad
    assert not advantage.requires_grad


def test_a_value_without_the_bootstrap_row_is_refused() -> None:
    ones = torch.ones(2, 1)
    with pytest.raises(ValueError, match=r"expected T \+ 1 = 3 rows"):
        gae(ones, ones, ones, ones.bool(), lam=0.5)


def q_oracle(
    reward: NDArray[np.float64],
    value: NDArray[np.float64],
    terminated: NDArray[np.bool_],
    mask: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """(1 − λ) Σ_n λ^(n−1) G_n, where the last n takes the weight that is left: the forward view,
    over the returns of n = 1, 2, ... steps that lie in t's own episode and in the rollout."""
    target = value[:-1].copy()
    for t in np.flatnonzero(mask):
        returns, earned = [], 0.0
        for n in range(1, len(reward) - t + 1):
            last = t + n - 1
            if not mask[last]:  # the dummy after the episode's end
                break
            earned += GAMMA ** (n - 1) * reward[last]
            returns.append(earned + (0.0 if terminated[last] else GAMMA**n * value[last + 1]))
            if terminated[last]:
                break
        weights = (1 - LAM) * LAM ** np.arange(len(returns))
        weights[-1] = LAM ** (len(returns) - 1)
        target[t] = weights @ np.array(returns)
    return target


def q_run(*stream: NDArray[Any], lam: float = LAM) -> NDArray[Any]:
    reward, value, terminated, mask = stream
    tensors = [torch.from_numpy(x[:, None].copy()) for x in (reward, value, mask)]
    discount = GAMMA * torch.from_numpy(~terminated[:, None]).double()
    return q_lambda(tensors[0], discount, tensors[1], tensors[2], lam=lam)[:, 0].numpy()


@settings(max_examples=100, deadline=None)
@given(
    steps=st.integers(1, 17),
    ends=st.dictionaries(st.integers(0, 16), st.sampled_from(["terminated", "truncated"])),
    dummy_first=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_q_lambda_equals_the_forward_view(
    steps: int, ends: dict[int, str], dummy_first: bool, seed: int
) -> None:
    """Ends of both kinds at every position, the first and last step of the rollout included."""
    reward, value, terminated, _, mask = column(ends, steps, dummy_first, seed)
    target = q_run(reward, value, terminated, mask)
    np.testing.assert_allclose(target, q_oracle(reward, value, terminated, mask), atol=1e-12)


def test_q_lambda_of_zero_looks_one_step_ahead() -> None:
    reward, value, terminated, _, mask = column({2: "truncated", 5: "terminated"}, 8, False, 3)
    target = q_run(reward, value, terminated, mask, lam=0.0)
    expected = reward + GAMMA * np.where(terminated, 0, value[1:])
    np.testing.assert_allclose(target[mask], expected[mask])


BARS = {"lam": 0.9, "rho_bar": 1.3, "c_bar": 0.8, "pg_rho_bar": 1.1}
NO_CLIPPING = {"rho_bar": 1e9, "c_bar": 1e9, "pg_rho_bar": 1e9}


def v_trace_oracle(
    rho: NDArray[np.float64],
    reward: NDArray[np.float64],
    value: NDArray[np.float64],
    terminated: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    *,
    lam: float,
    rho_bar: float,
    c_bar: float,
    pg_rho_bar: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """vs[s] = v[s] + Σ_t γ^(t−s) (Π_{s<=i<t} c[i]) δ[t] over the rest of s's episode, one column;
    then the advantage of each step towards vs of the next."""
    steps = len(reward)
    target = value.copy()
    for s in range(steps):
        for t in range(s, steps):
            if not mask[t]:  # the dummy after the episode's end, or s itself
                break
            following = 0.0 if terminated[t] else value[t + 1]
            delta = min(rho_bar, rho[t]) * (reward[t] + GAMMA * following - value[t])
            trace = np.prod([lam * min(c_bar, rho[i]) for i in range(s, t)])
            target[s] += GAMMA ** (t - s) * trace * delta
            if terminated[t]:
                break
    advantage = np.zeros(steps)
    for s in range(steps):
        if mask[s]:
            following = 0.0 if terminated[s] else target[s + 1]
            advantage[s] = min(pg_rho_bar, rho[s]) * (reward[s] + GAMMA * following - value[s])
    return target[:-1], advantage


def run_v_trace(
    log_rho: NDArray[Any], *stream: NDArray[Any], **bars: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Targets and advantages of one column (reward, value, terminated, mask)."""
    reward, value, terminated, mask = stream
    ratio, r, v, m = (torch.from_numpy(x[:, None].copy()) for x in (log_rho, reward, value, mask))
    discount = GAMMA * torch.from_numpy(~terminated[:, None]).double()
    target, advantage = v_trace(ratio, r, discount, v, m, **bars)
    return target[:, 0].numpy(), advantage[:, 0].numpy()


@settings(max_examples=200, deadline=None)
@given(
    steps=st.integers(1, 17),
    ends=st.dictionaries(st.integers(0, 16), st.sampled_from(["terminated", "truncated"])),
    dummy_first=st.booleans(),
    seed=st.integers(0, 2**31),
    bars=st.sampled_from([{}, BARS, NO_CLIPPING]),
)
def test_v_trace_equals_the_oracle(
    steps: int, ends: dict[int, str], dummy_first: bool, seed: int, bars: dict[str, float]
) -> None:
    reward, value, terminated, _, mask = column(ends, steps, dummy_first, seed)
    log_rho = np.random.default_rng(seed + 1).normal(size=steps)
    target, advantage = run_v_trace(log_rho, reward, value, terminated, mask, **bars)
    expected = v_trace_oracle(
        np.exp(log_rho),
        reward,
        value,
        terminated,
        mask,
        **({"lam": 1.0, "rho_bar": 1.0, "c_bar": 1.0, "pg_rho_bar": 1.0} | bars),
    )
    np.testing.assert_allclose(target, expected[0], atol=1e-10)
    np.testing.assert_allclose(advantage, expected[1], atol=1e-10)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_v_trace_on_policy_is_the_lambda_return(lam: float) -> None:
    """G(λ) = (1 − λ) Σ_n λ^(n−1) G(n) + λ^(N−1) G(N), N = steps to the end of the rollout."""
    rng = np.random.default_rng(3)
    steps = 7
    reward, value = rng.normal(size=steps), rng.normal(size=steps + 1)
    going, playing = np.zeros(steps, bool), np.ones(steps, bool)
    target, _ = run_v_trace(np.zeros(steps), reward, value, going, playing, lam=lam, **NO_CLIPPING)
    for s in range(steps):
        returns = [
            sum(GAMMA**i * reward[s + i] for i in range(n)) + GAMMA**n * value[s + n]
            for n in range(1, steps - s + 1)
        ]
        weights = [(1 - lam) * lam**n for n in range(len(returns) - 1)]
        weights.append(lam ** (len(returns) - 1))
        assert target[s] == pytest.approx(np.dot(weights, returns), abs=1e-12)


def test_v_trace_keeps_what_stands_at_a_dummy_to_itself() -> None:
    reward, value, terminated, _, mask = column({2: "truncated"}, 6, False, 0)
    log_rho = np.linspace(-1, 1, 6)
    clean = run_v_trace(log_rho, reward, value, terminated, mask)
    reward[3] = log_rho[3] = np.nan
    for actual, expected in zip(
        run_v_trace(log_rho, reward, value, terminated, mask), clean, strict=True
    ):
        np.testing.assert_array_equal(actual, expected)


def test_v_trace_without_the_bootstrap_row_is_refused() -> None:
    ones = torch.ones(2, 1)
    with pytest.raises(ValueError, match=r"expected T \+ 1 = 3 rows"):
        v_trace(ones, ones, ones, ones, ones.bool())


@pytest.mark.parametrize("steps", [1, 2, 3, 31, 32, 33, 200])
def test_columns_of_any_length_are_summed_each_by_itself(steps: int) -> None:
    rng = np.random.default_rng(steps)
    ends = [{int(t): "terminated" for t in rng.integers(0, steps, 3)}, {steps // 2: "truncated"}]
    columns = [column(x, steps, False, seed) for seed, x in enumerate([*ends, {}])]
    reward, value, terminated, _, mask = (np.stack(x, axis=1) for x in zip(*columns, strict=True))
    discount = torch.from_numpy(GAMMA * ~terminated)
    stream = [torch.from_numpy(x) for x in (reward, value, mask)]
    _, advantage = gae(stream[0], discount, *stream[1:], lam=LAM)
    on_policy = torch.zeros(steps, 3, dtype=torch.float64)
    target, _ = v_trace(on_policy, stream[0], discount, *stream[1:], lam=LAM)
    for index, (r, v, term, _, m) in enumerate(columns):
        expected = oracle(r, v, term, m)
        np.testing.assert_allclose(advantage[:, index], expected, atol=1e-12)
        np.testing.assert_allclose(target[:, index], v[:-1] + expected, atol=1e-12)


def test_on_another_device_nothing_comes_back_to_the_cpu() -> None:
    """meta has shapes and no numbers: what needs a number there raises."""
    x, value = torch.empty(5, 2, device="meta"), torch.empty(6, 2, device="meta")
    for targets in (gae(x, x, value, x.bool(), lam=0.5), v_trace(x, x, x, value, x.bool())):
        assert [(y.device.type, y.shape) for y in targets] == [("meta", (5, 2))] * 2
