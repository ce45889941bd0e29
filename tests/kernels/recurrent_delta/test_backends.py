"""Every backend against the reference in float64, and the reference against its equations."""

import functools
import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

RESETS = {
    "never": None,
    "first": lambda T, B: _at(T, B, 0),
    "middle": lambda T, B: _at(T, B, T // 2),
    "last": lambda T, B: _at(T, B, T - 1),
    "every step": lambda T, B: torch.ones(T, B, dtype=torch.bool),
    "random": lambda T, B: torch.rand(T, B, generator=torch.Generator().manual_seed(T)) < 0.1,
}
BACKENDS = ("reference", "numba")
STEPS = ("xq", "xk", "xv", "xb")
SLOW = ("R_q", "R_k", "R_v", "r_b")
STATE = ("W", "y_prev")


def _at(T, B, t):
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[t, ::2] = True  # the columns differ
    return reset


def _by_hand(xq, xk, xv, xb, R_q, R_k, R_v, r_b, W, y_prev, reset):
    """The equations, one number at a time."""

    def dot(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True))

    def softmax(x):
        total = sum(math.exp(a) for a in x)
        return [math.exp(a) / total for a in x]

    W, last, y = W.copy(), y_prev.copy(), np.zeros_like(xv)
    T, B, H, V = xv.shape
    for t, b, h in itertools.product(range(T), range(B), range(H)):
        if reset[t, b]:
            W[b, h] = 0
            last[b, h] = 0
        s = [math.tanh(a) for a in last[b, h]]
        q = softmax([x + dot(R, s) for x, R in zip(xq[t, b, h], R_q[h], strict=True)])
        k = softmax([x + dot(R, s) for x, R in zip(xk[t, b, h], R_k[h], strict=True)])
        beta = 1 / (1 + math.exp(-xb[t, b, h] - dot(r_b[h], s)))
        for i in range(V):
            v = xv[t, b, h, i] + dot(R_v[h, i], s)
            error = v - dot(W[b, h, i], k)
            W[b, h, i] += [beta * error * a for a in k]
            last[b, h, i] = y[t, b, h, i] = dot(W[b, h, i], q)
    return {"y": y, "W": W, "y_prev": last}


def test_reference_is_its_equations(make_inputs, call):
    inputs = make_inputs(T=6, B=2, H=2, K=4, V=3, reset=RESETS["middle"])
    got = call(inputs, backend="reference")
    for name, truth in _by_hand(**{n: x.detach().numpy() for n, x in inputs.items()}).items():
        np.testing.assert_allclose(got[name].detach(), truth, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("reset", ["never", "middle"])
def test_gradcheck(make_inputs, call, reset):
    inputs = make_inputs(T=3, B=2, H=1, K=2, V=3, reset=RESETS[reset])
    names = [*STEPS, *SLOW, *STATE]

    def run(*floats):
        changed = inputs | dict(zip(names, floats, strict=True))
        return tuple(call(changed, backend="reference").values())

    assert torch.autograd.gradcheck(run, [inputs[name] for name in names], fast_mode=True)


@pytest.fixture(scope="module")
def truth(make_inputs, outcome):
    """Inputs, and what the reference makes of them."""

    @functools.cache
    def of(T, reset):
        inputs = make_inputs(T=T, reset=RESETS[reset])
        return inputs, outcome(inputs, backend="reference")

    return of


@pytest.mark.parametrize("T", [1, 5, 37])
@pytest.mark.parametrize("reset", RESETS)
def test_numba_agrees(truth, outcome, assert_close, T, reset):
    inputs, expected = truth(T, reset)
    assert_close(outcome(inputs, backend="numba"), expected, 1e-11)


@pytest.mark.parametrize("t", [15, 16, 17, 31, 32, 33])
def test_resets_around_the_ends_of_chunks(make_inputs, outcome, assert_close, t):
    inputs = make_inputs(T=40, reset=lambda T, B: _at(T, B, t))
    expected = outcome(inputs, backend="reference")
    assert_close(outcome(inputs, backend="numba"), expected, 1e-11)


@pytest.mark.parametrize(("K", "V"), [(1, 1), (1, 7), (33, 1), (64, 33), (16, 64)])
def test_any_size(make_inputs, outcome, assert_close, K, V):
    inputs = make_inputs(T=4, B=1, H=3, K=K, V=V, reset=RESETS["middle"])
    expected = outcome(inputs, backend="reference")
    assert_close(outcome(inputs, backend="numba"), expected, 1e-11)


def test_float32_agrees_with_float64(make_inputs, outcome, assert_close):
    inputs = make_inputs(T=37, B=2, V=33, reset=RESETS["random"], dtype=torch.float32)
    doubles = {
        n: x.detach().double().requires_grad_() if x.is_floating_point() else x
        for n, x in inputs.items()
    }
    got = outcome(inputs, backend="numba")
    assert all(x.dtype == torch.float32 for x in got.values())
    assert_close(got, outcome(doubles, backend="reference"), 3e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_logits(make_inputs, outcome, backend):
    inputs = make_inputs(dtype=torch.float32)
    with torch.no_grad():
        for name in ("xq", "xk", "xb", "y_prev"):
            inputs[name] *= 1e4
    for name, x in outcome(inputs, backend=backend).items():
        assert x.isfinite().all(), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_non_contiguous_inputs(make_inputs, outcome, assert_close, backend):
    inputs = make_inputs(reset=RESETS["random"])
    strided = {
        n: x.detach().mT.contiguous().mT.requires_grad_(x.requires_grad) for n, x in inputs.items()
    }
    assert not any(x.is_contiguous() for x in strided.values())
    expected = outcome(inputs, backend="reference")
    assert_close(outcome(strided, backend=backend), expected, 1e-11)


@pytest.mark.parametrize("output", ["y", *STATE])
def test_loss_on_one_output(make_inputs, call, assert_close, output):
    inputs = make_inputs(reset=RESETS["middle"])
    leaves = {n: x for n, x in inputs.items() if x.requires_grad}

    def gradients(backend):
        loss = call(inputs, backend=backend)[output].square().sum()
        return dict(zip(leaves, torch.autograd.grad(loss, leaves.values()), strict=True))

    expected = gradients("reference")
    assert_close(gradients("numba"), expected, 1e-11)
    assert all(x.any() for x in expected.values())


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(
    T=st.integers(2, 40),
    cut=st.floats(0, 1),
    sizes=st.tuples(*[st.integers(1, 4)] * 4),
    seed=st.integers(0, 999),
)
def test_two_calls_are_one(make_inputs, call, assert_close, backend, T, cut, sizes, seed):
    inputs = make_inputs(T, *sizes, seed=seed, reset=RESETS["random"])
    first = 1 + int(cut * (T - 2))

    def part(steps, **state):
        over_time = {n: x[steps] if n in (*STEPS, "reset") else x for n, x in inputs.items()}
        return call(over_time | state, backend=backend)

    whole = part(slice(None))
    before = part(slice(first))
    y = before.pop("y")
    after = part(slice(first, None), **before)
    assert_close(after | {"y": torch.cat([y, after["y"]])}, whole, 1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_columns_are_independent(make_inputs, call, backend):
    inputs = make_inputs(reset=RESETS["random"])
    together = call(inputs, backend=backend)
    alone = {n: x[1:2] if n in STATE else x if n in SLOW else x[:, 1:2] for n, x in inputs.items()}
    alone = call(alone, backend=backend)
    torch.testing.assert_close(together["y"][:, 1:2], alone["y"])
    for name in STATE:
        torch.testing.assert_close(together[name][1:2], alone[name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_last_loss_reaches_the_first_step(make_inputs, call, backend):
    inputs = make_inputs(T=40)
    loss = call(inputs, backend=backend)["y"][-1].square().sum()
    for gradient in torch.autograd.grad(loss, [inputs[n] for n in STEPS]):
        assert gradient[0].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("T", [3, 40])
def test_reset_cuts_the_gradient_exactly(make_inputs, call, backend, T):
    reset = torch.zeros(T, 3, dtype=torch.bool)
    reset[T - 2] = True
    inputs = make_inputs(T=T) | {"reset": reset}
    results = call(inputs, backend=backend)
    loss = results["y"][-1].pow(3).sum() + results["W"].square().sum()
    gradients = torch.autograd.grad(loss, [inputs[n] for n in (*STATE, *STEPS)])
    assert not any(x.any() for x in gradients[:2])
    for name, x in zip(STEPS, gradients[2:], strict=True):
        assert not x[: T - 2].any(), name
        assert x[T - 1].any(), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("T", [1, 40])
def test_reset_forgets_even_nan(make_inputs, call, backend, T):
    inputs = make_inputs(T=T, reset=RESETS["first"])
    with torch.no_grad():
        for name in STATE:
            inputs[name][:2] = float("nan")
    results = call(inputs, backend=backend)
    y, W = results["y"], results["W"]
    assert y[:, ::2].isfinite().all()
    assert W[::2].isfinite().all()
    assert W[1].isnan().all()
    loss = y[:, ::2].sum() + W[::2].sum()
    for gradient in torch.autograd.grad(loss, [inputs[n] for n in STEPS]):
        assert gradient[:, ::2].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("T", [1, 5])
def test_the_inputs_are_not_changed_nor_aliased(make_inputs, call, backend, T):
    inputs = make_inputs(T=T, reset=RESETS["first"])
    before = {n: x.detach().clone() for n, x in inputs.items()}
    results = call(inputs, backend=backend)
    sum(x.sum() for x in results.values()).backward()
    with torch.no_grad():
        for number, x in enumerate(results.values()):
            x.fill_(number)
    assert all(torch.equal(before[n], inputs[n]) for n in before)
    assert all((x == number).all() for number, x in enumerate(results.values()))
