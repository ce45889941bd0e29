"""Every backend against the reference in float64, and the reference against its equations."""

import functools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from fwp_rl.kernels import fast_weight

RESETS = {
    "never": None,
    "first": lambda T, B: _at(T, B, 0),
    "middle": lambda T, B: _at(T, B, T // 2),
    "last": lambda T, B: _at(T, B, T - 1),
    "every step": lambda T, B: torch.ones(T, B, dtype=torch.bool),
    "random": lambda T, B: torch.rand(T, B, generator=torch.Generator().manual_seed(T)) < 0.2,
}
ALL = ("reference", "chunkwise", "numba")
FAST = ("chunkwise", "numba")
VARIANTS = {"delta": ("delta", True), "sum": ("sum", True), "sum without beta": ("sum", False)}


def _at(T, B, t):
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[t, ::2] = True  # the columns differ
    return reset


def _by_hand(q, k, v, beta, state, log_decay, reset, rule):
    """The equations, one number at a time."""
    W, y = state.copy(), np.zeros_like(v)
    T, B, H, K = q.shape
    for t in range(T):
        for b in range(B):
            for h in range(H):
                if reset[t, b]:
                    W[b, h] = 0
                for i in range(v.shape[-1]):
                    row = [math.exp(log_decay[t, b, h]) * W[b, h, i, j] for j in range(K)]
                    read = sum(row[j] * k[t, b, h, j] for j in range(K))
                    target = v[t, b, h, i] - (read if rule == "delta" else 0)
                    for j in range(K):
                        W[b, h, i, j] = row[j] + beta[t, b, h] * target * k[t, b, h, j]
                    y[t, b, h, i] = sum(W[b, h, i, j] * q[t, b, h, j] for j in range(K))
    return y, W


@pytest.mark.parametrize("rule", ["delta", "sum"])
def test_reference_is_its_equations(make_inputs, rule):
    inputs = make_inputs(T=6, B=2, H=2, K=2, V=3, decay=True, reset=RESETS["random"])
    y, state = fast_weight(**inputs, rule=rule, backend="reference")
    expected = _by_hand(**{n: x.detach().numpy() for n, x in inputs.items()}, rule=rule)
    np.testing.assert_allclose(y.detach(), expected[0], rtol=1e-12)
    np.testing.assert_allclose(state.detach(), expected[1], rtol=1e-12)


@pytest.mark.parametrize("rule", ["delta", "sum"])
@pytest.mark.parametrize("reset", ["never", "middle"])
def test_gradcheck(make_inputs, rule, reset):
    inputs = make_inputs(T=3, B=2, H=1, K=2, V=3, decay=True, reset=RESETS[reset])
    *floats, reset = inputs.values()

    def call(q, k, v, beta, state, log_decay):
        return fast_weight(
            q, k, v, beta, state, log_decay=log_decay, reset=reset, rule=rule, backend="reference"
        )

    assert torch.autograd.gradcheck(call, floats)


@pytest.fixture(scope="module")
def truth(make_inputs, outcome):
    """Inputs, and what the reference makes of them: once for all backends."""

    @functools.cache
    def of(T, reset, decay, variant):
        rule, beta = VARIANTS[variant]
        inputs = make_inputs(T=T, decay=decay, beta=beta, reset=RESETS[reset])
        return inputs, outcome(inputs, rule=rule, backend="reference")

    return of


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("T", [1, 5, 37])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("decay", [False, True], ids=["", "decay"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_backend_agrees(truth, outcome, assert_close, backend, T, reset, decay, variant):
    inputs, expected = truth(T, reset, decay, variant)
    rule, _ = VARIANTS[variant]
    assert_close(outcome(inputs, rule=rule, backend=backend), expected, 1e-12)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("K", "V"), [(1, 1), (1, 7), (7, 1), (33, 7), (16, 33), (64, 64)])
def test_any_size(make_inputs, outcome, assert_close, backend, K, V):
    inputs = make_inputs(T=4, B=1, H=3, K=K, V=V, decay=True, reset=RESETS["middle"])
    expected = outcome(inputs, backend="reference")
    assert_close(outcome(inputs, backend=backend), expected, 1e-12)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("rule", ["delta", "sum"])
@pytest.mark.parametrize("T", [1, 37])
def test_float32_agrees_with_float64(make_inputs, outcome, assert_close, backend, rule, T):
    inputs = make_inputs(
        T=T, B=2, K=33, V=7, decay=True, reset=RESETS["random"], dtype=torch.float32
    )
    doubles = {
        n: x.detach().double().requires_grad_() if x.is_floating_point() else x
        for n, x in inputs.items()
    }
    expected = outcome(doubles, rule=rule, backend="reference")
    got = outcome(inputs, rule=rule, backend=backend)
    assert all(x.dtype == torch.float32 for x in got.values())
    assert_close(got, expected, 1e-5)


@pytest.mark.parametrize("backend", ALL)
def test_non_contiguous_inputs(make_inputs, outcome, assert_close, backend):
    inputs = make_inputs(decay=True, reset=RESETS["random"])
    strided = {
        n: x.detach().mT.contiguous().mT.requires_grad_(x.requires_grad) for n, x in inputs.items()
    }
    assert not any(x.is_contiguous() for x in strided.values())
    expected = outcome(inputs, backend="reference")
    assert_close(outcome(strided, backend=backend), expected, 1e-12)


@pytest.mark.parametrize("backend", ALL)
def test_expanded_inputs_and_gradients(make_inputs, backend):
    inputs = make_inputs(T=3)
    inputs["beta"] = torch.full((), 0.5, dtype=torch.float64).expand(3, 3, 2)
    y, _ = fast_weight(**inputs, backend=backend)
    (expanded,) = torch.autograd.grad(y.sum(), inputs["v"], retain_graph=True)
    (dense,) = torch.autograd.grad(y, inputs["v"], torch.ones_like(y))
    assert torch.equal(expanded, dense)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("output", [0, 1], ids=["y", "final state"])
def test_loss_on_one_output(make_inputs, assert_close, backend, output):
    inputs = make_inputs(decay=True, reset=RESETS["middle"])
    leaves = {n: x for n, x in inputs.items() if x.requires_grad}

    def gradients(backend):
        loss = fast_weight(**inputs, backend=backend)[output].square().sum()
        grads = torch.autograd.grad(loss, leaves.values(), allow_unused=True)
        return {n: torch.zeros(1) if g is None else g for n, g in zip(leaves, grads, strict=True)}

    expected = gradients("reference")
    assert_close(gradients(backend), expected, 1e-12)
    assert expected["state"].any()
    assert expected["q"].any() == (output == 0)


@pytest.mark.parametrize("backend", ALL)
@settings(max_examples=25, deadline=None)
@given(
    T=st.integers(2, 40),
    cut=st.floats(0, 1),
    sizes=st.tuples(*[st.integers(1, 4)] * 4),
    rule=st.sampled_from(["delta", "sum"]),
    decay=st.booleans(),
    seed=st.integers(0, 999),
)
def test_two_calls_are_one(make_inputs, assert_close, backend, T, cut, sizes, rule, decay, seed):
    inputs = make_inputs(T, *sizes, decay=decay, seed=seed, reset=RESETS["random"])
    first = 1 + int(cut * (T - 2))

    def part(steps, state):
        over_time = {n: x if x is None else x[steps] for n, x in inputs.items() if n != "state"}
        return fast_weight(**over_time, state=state, rule=rule, backend=backend)

    y, state = part(slice(None), inputs["state"])
    y_1, carried = part(slice(first), inputs["state"])
    y_2, carried = part(slice(first, None), carried)
    assert_close({"y": torch.cat([y_1, y_2]), "state": carried}, {"y": y, "state": state}, 1e-11)


@pytest.mark.parametrize("backend", ALL)
def test_columns_are_independent(make_inputs, backend):
    inputs = make_inputs(decay=True, reset=RESETS["random"])
    y, state = fast_weight(**inputs, backend=backend)
    alone = {n: x[1:2] if n == "state" else x[:, 1:2] for n, x in inputs.items()}
    y_alone, state_alone = fast_weight(**alone, backend=backend)
    torch.testing.assert_close(y[:, 1:2], y_alone)
    torch.testing.assert_close(state[1:2], state_alone)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("T", [2, 40])
def test_last_loss_reaches_the_first_write(make_inputs, backend, T):
    inputs = make_inputs(T=T, decay=False)
    y, _ = fast_weight(**inputs, backend=backend)
    names = ["k", "v", "beta"]
    for grad in torch.autograd.grad(y[-1].square().sum(), [inputs[n] for n in names]):
        assert grad[0].abs().amax() > 1e-6


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("rule", ["delta", "sum"])
@pytest.mark.parametrize("T", [3, 40])
def test_reset_cuts_the_gradient_exactly(make_inputs, backend, rule, T):
    reset = torch.zeros(T, 3, dtype=torch.bool)
    reset[T - 2] = True
    inputs = make_inputs(T=T, decay=True) | {"reset": reset}
    y, state = fast_weight(**inputs, rule=rule, backend=backend)
    names = ["q", "k", "v", "beta", "log_decay"]
    loss = y[-1].square().sum() + state.square().sum()
    *grads, initial = torch.autograd.grad(loss, [inputs[n] for n in [*names, "state"]])
    for name, grad in zip(names, grads, strict=True):
        assert not grad[: T - 2].any(), name
        assert grad[T - 1].any(), name
    assert not grads[-1][T - 2].any()  # what the reset erased, no decay can change
    assert not initial.any()


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("T", [1, 40])
def test_reset_forgets_even_nan(make_inputs, backend, T):
    inputs = make_inputs(T=T, decay=True, reset=RESETS["first"])
    with torch.no_grad():
        inputs["state"][:2] = float("nan")
    y, state = fast_weight(**inputs, backend=backend)
    assert y[:, ::2].isfinite().all()
    assert state[::2].isfinite().all()
    assert state[1].isnan().all()
    loss = y[:, ::2].sum() + state[::2].sum()
    for grad in torch.autograd.grad(loss, [inputs[n] for n in ("q", "k", "v", "beta")]):
        assert grad[:, ::2].isfinite().all()


@pytest.mark.parametrize("backend", ALL)
def test_a_decay_of_zero_forgets(make_inputs, backend):
    inputs = make_inputs(decay=True)
    with torch.no_grad():
        inputs["log_decay"][2] = -float("inf")
        y, state = fast_weight(**inputs, backend=backend)
        inputs |= {"state": torch.zeros_like(state), "log_decay": None}
        last = {n: x if x is None or n == "state" else x[2:3] for n, x in inputs.items()}
        fresh, _ = fast_weight(**last, backend=backend)
    assert state.isfinite().all()
    torch.testing.assert_close(y[2:3], fresh)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("rule", ["delta", "sum"])
@pytest.mark.parametrize("T", [1, 5])
def test_the_inputs_are_not_changed_nor_aliased(make_inputs, backend, rule, T):
    inputs = make_inputs(T=T, decay=True, reset=RESETS["first"])
    before = {n: x.detach().clone() for n, x in inputs.items()}
    y, state = fast_weight(**inputs, rule=rule, backend=backend)
    (y.sum() + state.sum()).backward()
    assert all(torch.equal(before[n], inputs[n]) for n in before)
    with torch.no_grad():
        y.fill_(1)
        state.fill_(1)
    assert all(torch.equal(before[n], inputs[n]) for n in before)
