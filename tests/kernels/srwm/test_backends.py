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
BASE = ("W_y", "W_q", "W_k", "W_b")
STATE = ("dW_y", "dW_q", "dW_k", "dW_b")


def _at(T, B, t):
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[t, ::2] = True  # the columns differ
    return reset


def _by_hand(x, W_y, W_q, W_k, W_b, dW_y, dW_q, dW_k, dW_b, reset):
    """The equations, one number at a time."""

    def softmax(a):
        total = sum(math.exp(n) for n in a)
        return [math.exp(n) / total for n in a]

    def times(M, a):
        return [sum(row[j] * a[j] for j in range(len(a))) for row in M]

    T, B, H, K = x.shape
    y = np.zeros((T, B, H, W_y.shape[1]))
    state = [dW.copy() for dW in (dW_y, dW_q, dW_k, dW_b)]
    for t, b, h in itertools.product(range(T), range(B), range(H)):
        if reset[t, b]:
            for dW in state:
                dW[b, h] = 0
        M = [W[h] + dW[b, h] for W, dW in zip((W_y, W_q, W_k, W_b), state, strict=True)]
        s = softmax(x[t, b, h])
        y[t, b, h] = times(M[0], s)
        q, k = softmax(times(M[1], s)), softmax(times(M[2], s))
        for g, rate in enumerate(times(M[3], s)):
            beta = 1 / (1 + math.exp(-rate))
            new, old = times(M[g], q), times(M[g], k)
            for i in range(len(new)):
                for j in range(K):
                    state[g][b, h, i, j] += beta * (new[i] - old[i]) * k[j]
    return {"y": y, **dict(zip(STATE, state, strict=True))}


def test_reference_is_its_equations(make_inputs, call):
    inputs = make_inputs(T=6, B=2, H=2, K=3, V=2, reset=RESETS["middle"])
    got = call(inputs, backend="reference")
    expected = _by_hand(**{n: x.detach().numpy() for n, x in inputs.items()})
    for name, truth in expected.items():
        np.testing.assert_allclose(got[name].detach(), truth, rtol=1e-11, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("reset", ["never", "middle"])
def test_gradcheck(make_inputs, call, reset):
    inputs = make_inputs(T=3, B=2, H=1, K=2, V=3, reset=RESETS[reset])
    names = [n for n in inputs if n != "reset"]

    def run(*floats):
        given = dict(zip(names, floats, strict=True)) | {"reset": inputs["reset"]}
        return tuple(call(given, backend="reference").values())

    assert torch.autograd.gradcheck(run, [inputs[n] for n in names])


@pytest.fixture(scope="module")
def truth(make_inputs, outcome):
    """Inputs, and what the reference makes of them."""

    @functools.cache
    def of(T, reset):
        inputs = make_inputs(T=T, reset=RESETS[reset])
        return inputs, outcome(inputs, backend="reference")

    return of


@pytest.mark.parametrize("T", [1, 5, 37, 70])
@pytest.mark.parametrize("reset", RESETS)
def test_numba_agrees(truth, outcome, assert_close, T, reset):
    inputs, expected = truth(T, reset)
    # the matrix rewrites itself: differences of rounding grow with time
    assert_close(outcome(inputs, backend="numba"), expected, 1e-12 if T < 37 else 1e-10)


@pytest.mark.parametrize("t", [31, 32, 33, 63, 64, 65])
def test_resets_around_the_ends_of_chunks(make_inputs, outcome, assert_close, t):
    inputs = make_inputs(T=96, reset=lambda T, B: _at(T, B, t))
    expected = outcome(inputs, backend="reference")
    assert_close(outcome(inputs, backend="numba"), expected, 1e-10)


@pytest.mark.parametrize(("K", "V"), [(1, 1), (1, 7), (7, 1), (33, 7), (16, 33), (64, 64)])
def test_any_size(make_inputs, outcome, assert_close, K, V):
    inputs = make_inputs(T=4, B=1, H=3, K=K, V=V, reset=RESETS["middle"])
    expected = outcome(inputs, backend="reference")
    assert_close(outcome(inputs, backend="numba"), expected, 1e-12)


@pytest.mark.parametrize("T", [1, 37])
def test_float32_agrees_with_float64(make_inputs, outcome, assert_close, T):
    inputs = make_inputs(T=T, B=2, K=33, V=7, reset=RESETS["random"], dtype=torch.float32)
    doubles = {
        n: x.detach().double().requires_grad_() if x.is_floating_point() else x
        for n, x in inputs.items()
    }
    got = outcome(inputs, backend="numba")
    assert all(x.dtype == torch.float32 for x in got.values())
    assert_close(got, outcome(doubles, backend="reference"), 1e-5)


def test_a_large_gradient_of_the_state_costs_the_base_weights_no_digits(make_inputs, call):
    """Theirs is a sum of small terms, not the difference of two large ones."""
    inputs = make_inputs(T=3, B=1, K=64, V=64, dtype=torch.float32)
    with torch.no_grad():
        for name in (*BASE, *STATE):
            inputs[name] /= 64

    def gradient(inputs, backend):
        loss = sum(x.sum() for name, x in call(inputs, backend=backend).items() if name != "y")
        return torch.autograd.grad(loss, inputs["W_q"])[0]

    doubles = {n: x if x is None else x.detach().double() for n, x in inputs.items()}
    doubles["W_q"].requires_grad_()
    expected = gradient(doubles, "reference")
    error = (gradient(inputs, "numba") - expected).abs().max() / expected.abs().max()
    assert error < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_logits(make_inputs, outcome, backend):
    inputs = make_inputs(dtype=torch.float32)
    with torch.no_grad():
        inputs["x"] *= 1e3
        for name in ("W_q", "W_k", "W_b"):
            inputs[name] *= 1e3
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
    assert_close(outcome(strided, backend=backend), expected, 1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_expanded_inputs_and_gradients(make_inputs, call, backend):
    inputs = make_inputs(T=3)
    inputs["W_b"] = torch.full((), 0.5, dtype=torch.float64).expand(2, 4, 5)
    y = call(inputs, backend=backend)["y"]
    (expanded,) = torch.autograd.grad(y.sum(), inputs["x"], retain_graph=True)
    (dense,) = torch.autograd.grad(y, inputs["x"], torch.ones_like(y))
    assert torch.equal(expanded, dense)


@pytest.mark.parametrize("output", ["y", *STATE])
def test_loss_on_one_output(make_inputs, call, assert_close, output):
    inputs = make_inputs(reset=RESETS["middle"])
    leaves = {n: x for n, x in inputs.items() if x.requires_grad}

    def gradients(backend):
        loss = call(inputs, backend=backend)[output].square().sum()
        grads = torch.autograd.grad(loss, leaves.values(), allow_unused=True)
        return {n: torch.zeros(1) if g is None else g for n, g in zip(leaves, grads, strict=True)}

    expected = gradients("reference")
    assert_close(gradients("numba"), expected, 1e-12)
    for name in ("x", "W_q", "W_k", "W_b", *STATE[1:]):
        assert expected[name].any(), name
    assert expected["W_y"].any() == (output in ("y", "dW_y"))  # nothing else reads the block


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25, deadline=None)
@given(
    T=st.integers(2, 70),
    cut=st.floats(0, 1),
    sizes=st.tuples(*[st.integers(1, 4)] * 4),
    seed=st.integers(0, 999),
)
def test_two_calls_are_one(make_inputs, call, assert_close, backend, T, cut, sizes, seed):
    inputs = make_inputs(T, *sizes, seed=seed, reset=RESETS["random"])
    first = 1 + int(cut * (T - 2))

    def part(steps, **state):
        over_time = {n: x[steps] if n in ("x", "reset") else x for n, x in inputs.items()}
        return call(over_time | state, backend=backend)

    whole = part(slice(None))
    before = part(slice(first))
    y = before.pop("y")
    after = part(slice(first, None), **before)
    assert_close(after | {"y": torch.cat([y, after["y"]])}, whole, 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_columns_are_independent(make_inputs, call, backend):
    inputs = make_inputs(reset=RESETS["random"])
    together = call(inputs, backend=backend)
    columns = {"x": (slice(None), slice(1, 2)), "reset": (slice(None), slice(1, 2))}
    columns |= dict.fromkeys(STATE, slice(1, 2))
    alone = call({n: x[columns[n]] if n in columns else x for n, x in inputs.items()})
    torch.testing.assert_close(together["y"][:, 1:2], alone["y"])
    for name in STATE:
        torch.testing.assert_close(together[name][1:2], alone[name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_of_zeros_is_the_base_weights(make_inputs, call, backend):
    inputs = make_inputs(reset=RESETS["first"])
    zeros = {n: torch.zeros_like(inputs[n]) for n in STATE}
    given = call(inputs, backend=backend)
    fresh = call(inputs | zeros | {"reset": None}, backend=backend)
    for name in ("y", *STATE):
        columns = (slice(None), slice(None, None, 2)) if name == "y" else slice(None, None, 2)
        assert torch.equal(given[name][columns], fresh[name][columns]), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("T", [2, 40])
def test_last_loss_reaches_the_first_step(make_inputs, call, backend, T):
    inputs = make_inputs(T=T)
    y = call(inputs, backend=backend)["y"]
    dx, *grads = torch.autograd.grad(y[-1].square().sum(), [inputs[n] for n in ("x", *STATE)])
    assert dx[0].abs().amax() > 1e-9
    for grad in grads:
        assert grad.abs().amax() > 1e-9


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("T", [3, 40])
def test_reset_cuts_the_gradient_exactly(make_inputs, call, backend, T):
    reset = torch.zeros(T, 3, dtype=torch.bool)
    reset[T - 2] = True
    inputs = make_inputs(T=T) | {"reset": reset}
    results = call(inputs, backend=backend)
    loss = results["y"][-1].pow(3).sum() + sum(results[n].square().sum() for n in STATE)
    dx, *grads = torch.autograd.grad(loss, [inputs[n] for n in ("x", *STATE, *BASE)])
    assert not dx[: T - 2].any()
    assert dx[T - 2 :].any(dim=-1).all()
    for name, grad in zip((*STATE, *BASE), grads, strict=True):
        assert bool(grad.any()) == (name in BASE), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("T", [1, 40])
def test_reset_forgets_even_nan(make_inputs, call, backend, T):
    inputs = make_inputs(T=T, reset=RESETS["first"])
    with torch.no_grad():
        for name in STATE:
            inputs[name][:2] = float("nan")
    results = call(inputs, backend=backend)
    assert results["y"][:, ::2].isfinite().all()
    assert all(results[n][::2].isfinite().all() for n in STATE)
    assert all(results[n][1].isnan().all() for n in STATE)
    results = call(inputs | {"reset": torch.ones_like(inputs["reset"])}, backend=backend)
    loss = sum(x.sum() for x in results.values())
    leaves = {n: inputs[n] for n in ("x", *BASE, *STATE)}
    for name, grad in zip(leaves, torch.autograd.grad(loss, leaves.values()), strict=True):
        assert grad.isfinite().all(), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("T", [1, 5])
def test_the_inputs_are_not_changed_nor_aliased(make_inputs, call, backend, T):
    inputs = make_inputs(T=T, reset=RESETS["first"])
    before = {n: x.detach().clone() for n, x in inputs.items()}
    results = call(inputs, backend=backend)
    sum(x.sum() for x in results.values()).backward()
    assert all(torch.equal(before[n], inputs[n]) for n in before)
    with torch.no_grad():
        for number, x in enumerate(results.values()):
            x.fill_(number)
    assert all(torch.equal(before[n], inputs[n]) for n in before)
    assert all((x == number).all() for number, x in enumerate(results.values()))
