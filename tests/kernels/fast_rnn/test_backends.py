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
MAPS = ("softmax", "identity")
PAPER = {"query": "softmax", "output": "identity"}
VARIANTS = {
    f"{query}-{output}": {"query": query, "output": output}
    for query, output in itertools.product(MAPS, MAPS)
}


def _at(T, B, t):
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[t, ::2] = True  # the columns differ
    return reset


def _by_hand(z, k, v, beta, R, y_prev, reset, query, output):
    """The equations, one number at a time."""

    def softmax(x):
        total = sum(math.exp(a) for a in x)
        return [math.exp(a) / total for a in x]

    R, last, y = R.copy(), y_prev.copy(), np.zeros_like(z)
    T, B, H, V = z.shape
    for t, b, h in itertools.product(range(T), range(B), range(H)):
        if reset[t, b]:
            R[b, h] = 0
            last[b, h] = 0
        s = softmax(last[b, h]) if query == "softmax" else list(last[b, h])
        a = []
        for i in range(V):
            error = v[t, b, h, i] - sum(R[b, h, i, j] * k[t, b, h, j] for j in range(V))
            for j in range(V):
                R[b, h, i, j] += beta[t, b, h] * error * k[t, b, h, j]
            a.append(z[t, b, h, i] + sum(R[b, h, i, j] * s[j] for j in range(V)))
        last[b, h] = y[t, b, h] = softmax(a) if output == "softmax" else a
    return {"y": y, "R": R, "y_prev": last}


@pytest.mark.parametrize("variant", VARIANTS)
def test_reference_is_its_equations(make_inputs, call, variant):
    inputs = make_inputs(T=6, B=2, H=2, V=3, reset=RESETS["middle"])
    got = call(inputs, **VARIANTS[variant], backend="reference")
    expected = _by_hand(**{n: x.detach().numpy() for n, x in inputs.items()}, **VARIANTS[variant])
    for name, truth in expected.items():
        np.testing.assert_allclose(got[name].detach(), truth, rtol=1e-12, err_msg=name)


def test_the_defaults_are_the_papers(make_inputs, call):
    inputs = make_inputs()
    assert torch.equal(call(inputs)["y"], call(inputs, **PAPER)["y"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("reset", ["never", "middle"])
def test_gradcheck(make_inputs, call, variant, reset):
    *floats, reset = make_inputs(T=3, B=2, H=1, V=3, reset=RESETS[reset]).values()

    def run(z, k, v, beta, R, y_prev):
        inputs = {"z": z, "k": k, "v": v, "beta": beta, "R": R, "y_prev": y_prev, "reset": reset}
        return tuple(call(inputs, **VARIANTS[variant], backend="reference").values())

    assert torch.autograd.gradcheck(run, floats)


@pytest.fixture(scope="module")
def truth(make_inputs, outcome):
    """Inputs, and what the reference makes of them."""

    @functools.cache
    def of(T, reset, variant):
        inputs = make_inputs(T=T, reset=RESETS[reset])
        return inputs, outcome(inputs, **VARIANTS[variant], backend="reference")

    return of


@pytest.mark.parametrize("T", [1, 5, 37, 70])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_numba_agrees(truth, outcome, assert_close, T, reset, variant):
    inputs, expected = truth(T, reset, variant)
    # a linear, unbounded recurrence loses digits with time
    tolerance = 1e-12 if variant != "identity-identity" else 1e-9
    assert_close(outcome(inputs, **VARIANTS[variant], backend="numba"), expected, tolerance)


@pytest.mark.parametrize("t", [31, 32, 33, 63, 64, 65])
def test_resets_around_the_ends_of_chunks(make_inputs, outcome, assert_close, t):
    inputs = make_inputs(T=96, reset=lambda T, B: _at(T, B, t))
    expected = outcome(inputs, backend="reference")
    assert_close(outcome(inputs, backend="numba"), expected, 1e-12)


@pytest.mark.parametrize("V", [1, 2, 16, 33, 64])
def test_any_size(make_inputs, outcome, assert_close, V):
    inputs = make_inputs(T=4, B=1, H=3, V=V, reset=RESETS["middle"])
    expected = outcome(inputs, backend="reference")
    assert_close(outcome(inputs, backend="numba"), expected, 1e-12)


def test_float32_agrees_with_float64(make_inputs, outcome, assert_close):
    inputs = make_inputs(T=37, B=2, V=33, reset=RESETS["random"], dtype=torch.float32)
    doubles = {
        n: x.detach().double().requires_grad_() if x.is_floating_point() else x
        for n, x in inputs.items()
    }
    got = outcome(inputs, backend="numba")
    assert all(x.dtype == torch.float32 for x in got.values())
    assert_close(got, outcome(doubles, backend="reference"), 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_logits(make_inputs, outcome, assert_close, backend):
    inputs = make_inputs(dtype=torch.float32)
    with torch.no_grad():
        inputs["z"] *= 1e3
        inputs["y_prev"] -= 1e4
    for name, x in outcome(inputs, output="softmax", backend=backend).items():
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
    inputs["beta"] = torch.full((), 0.5, dtype=torch.float64).expand(3, 3, 2)
    y = call(inputs, backend=backend)["y"]
    (expanded,) = torch.autograd.grad(y.sum(), inputs["v"], retain_graph=True)
    (dense,) = torch.autograd.grad(y, inputs["v"], torch.ones_like(y))
    assert torch.equal(expanded, dense)


@pytest.mark.parametrize("output", ["y", "R", "y_prev"])
def test_loss_on_one_output(make_inputs, call, assert_close, output):
    inputs = make_inputs(reset=RESETS["middle"])
    leaves = {n: x for n, x in inputs.items() if x.requires_grad}

    def gradients(backend):
        loss = call(inputs, backend=backend)[output].square().sum()
        grads = torch.autograd.grad(loss, leaves.values(), allow_unused=True)
        return {n: torch.zeros(1) if g is None else g for n, g in zip(leaves, grads, strict=True)}

    expected = gradients("reference")
    assert_close(gradients("numba"), expected, 1e-12)
    assert expected["R"].any()
    assert expected["z"].any() == (output != "R")


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25, deadline=None)
@given(
    T=st.integers(2, 70),
    cut=st.floats(0, 1),
    sizes=st.tuples(*[st.integers(1, 4)] * 3),
    variant=st.sampled_from(["softmax-identity", "identity-softmax"]),
    seed=st.integers(0, 999),
)
def test_two_calls_are_one(make_inputs, call, assert_close, backend, T, cut, sizes, variant, seed):
    inputs = make_inputs(T, *sizes, seed=seed, reset=RESETS["random"])
    first = 1 + int(cut * (T - 2))

    def part(steps, **state):
        over_time = {n: x if n in ("R", "y_prev") else x[steps] for n, x in inputs.items()}
        return call(over_time | state, **VARIANTS[variant], backend=backend)

    whole = part(slice(None))
    before = part(slice(first))
    y = before.pop("y")
    after = part(slice(first, None), **before)
    assert_close(after | {"y": torch.cat([y, after["y"]])}, whole, 1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_columns_are_independent(make_inputs, call, backend):
    inputs = make_inputs(reset=RESETS["random"])
    together = call(inputs, backend=backend)
    state = ("R", "y_prev")
    alone = call(
        {n: x[1:2] if n in state else x[:, 1:2] for n, x in inputs.items()}, backend=backend
    )
    torch.testing.assert_close(together["y"][:, 1:2], alone["y"])
    for name in state:
        torch.testing.assert_close(together[name][1:2], alone[name])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("T", [2, 40])
def test_last_loss_reaches_the_first_step(make_inputs, call, backend, T):
    inputs = make_inputs(T=T)
    y = call(inputs, backend=backend)["y"]
    names = ["z", "k", "v", "beta"]
    dz, *grads = torch.autograd.grad(y[-1].square().sum(), [inputs[n] for n in names])
    assert dz[0].any()  # through the queries: it fades with time
    for grad in grads:
        assert grad[0].abs().amax() > 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("T", [3, 40])
def test_reset_cuts_the_gradient_exactly(make_inputs, call, backend, variant, T):
    reset = torch.zeros(T, 3, dtype=torch.bool)
    reset[T - 2] = True
    inputs = make_inputs(T=T) | {"reset": reset}
    results = call(inputs, **VARIANTS[variant], backend=backend)
    names = ["z", "k", "v", "beta", "R", "y_prev"]
    loss = results["y"][-1].pow(3).sum() + results["R"].square().sum()
    grads = torch.autograd.grad(loss, [inputs[n] for n in names])
    for name, grad in zip(names, grads, strict=True):
        assert not grad[: T - 2 if name in ("z", "k", "v", "beta") else None].any(), name
    for name, grad in zip(names[:4], grads, strict=False):
        assert grad[T - 1].any(), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("T", [1, 40])
def test_reset_forgets_even_nan(make_inputs, call, backend, T):
    inputs = make_inputs(T=T, reset=RESETS["first"])
    with torch.no_grad():
        inputs["R"][:2] = float("nan")
        inputs["y_prev"][:2] = float("nan")
    results = call(inputs, backend=backend)
    y, R = results["y"], results["R"]
    assert y[:, ::2].isfinite().all()
    assert R[::2].isfinite().all()
    assert R[1].isnan().all()
    loss = y[:, ::2].sum() + R[::2].sum()
    for grad in torch.autograd.grad(loss, [inputs[n] for n in ("z", "k", "v", "beta")]):
        assert grad[:, ::2].isfinite().all()


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
