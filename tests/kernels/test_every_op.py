"""What holds for every op on every backend."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from .cases import (
    EVERY_CASE,
    EVERY_OP,
    RESETS,
    assert_close,
    changed,
    every_backend,
    fast,
    floats,
    gradients_of,
    in_float64,
    over,
    weighted_sum,
)

STEPS = {1: 1e-12, 5: 1e-12, 70: 1e-9}
"""Numbers of steps, and how closely backends agree: a recurrence enlarges rounding errors."""

LARGE = {
    "diagonal": {"x": (1e4, 0)},
    "fast_weight": {"log_decay": (1e4, 0)},
    "fast_weight_channels": {"log_decay": (1e4, 0)},
    "recurrent_delta": dict.fromkeys(("xq", "xk", "xb", "y_prev"), (1e4, 0)),
    "fast_rnn": {"z": (1e3, 0), "y_prev": (1, -1e4)},
    "fast_lstm": {"z": (1e3, 0), "h": (1, -1e4)},
    "srwm": dict.fromkeys(("x", "W_q", "W_k", "W_b"), (1e3, 0)),
}
"""Inputs that overflow an exponential without care: a factor and a shift."""

ONLY_READ = {"fast_weight": {"q"}, "fast_weight_channels": {"q"}}
"""Inputs that never reach a later step."""

SIZES = [(1, 1), (1, 7), (7, 1), (33, 2), (16, 33), (33, 16), (64, 64)]


@pytest.mark.parametrize("reset", ["never", "middle"])
@over(EVERY_CASE)
def test_the_references_gradients_are_those_of_finite_differences(case, reset):
    inputs = case.inputs(T=3, B=2, H=1, K=2, V=3, reset=reset)
    leaves = floats(inputs)

    def run(*values):
        given = inputs | dict(zip(leaves, values, strict=True))
        return tuple(case.run(given, "reference").values())

    assert torch.autograd.gradcheck(run, tuple(leaves.values()), fast_mode=True)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("T", STEPS)
@over(EVERY_CASE, fast)
def test_backends_agree(case, backend, T, reset):
    inputs = case.inputs(T, reset=reset)
    assert_close(case.outcome(inputs, backend), case.outcome(inputs, "reference"), STEPS[T])


@pytest.mark.parametrize("end", [16, 32, 64])
@over(EVERY_OP, fast)
def test_resets_around_the_ends_of_chunks(case, backend, end):
    reset = torch.zeros(96, 4, dtype=torch.bool)
    reset[[end - 1, end, end + 1], [0, 1, 2]] = True  # the last column has none
    inputs = case.inputs(96, 4, reset=reset)
    assert_close(case.outcome(inputs, backend), case.outcome(inputs, "reference"), STEPS[70])


@pytest.mark.parametrize(("K", "V"), SIZES)
@over(EVERY_OP, fast)
def test_any_size(case, backend, K, V):
    inputs = case.inputs(T=4, B=1, H=3, K=K, V=V, reset="middle")
    assert_close(case.outcome(inputs, backend), case.outcome(inputs, "reference"), 1e-11)


@pytest.mark.parametrize("T", [1, 37])
@over(EVERY_CASE, fast)
def test_float32_agrees_with_float64(case, backend, T):
    inputs = case.inputs(T, B=2, K=17, V=33, reset="random", dtype=torch.float32)
    got = case.outcome(inputs, backend)
    assert {x.dtype for x in got.values()} == {torch.float32}
    assert_close(got, case.outcome(in_float64(inputs), "reference"), 1e-5)


@pytest.mark.parametrize("T", [1, 5])
@over(EVERY_CASE, every_backend)
def test_nothing_overflows(case, backend, T):
    inputs = case.inputs(T, dtype=torch.float32)
    for name, (factor, shift) in LARGE[case.name].items():
        if inputs[name] is not None:
            inputs = changed(inputs, lambda x, a=factor, b=shift: a * x + b, [name])
    for name, x in case.outcome(inputs, backend).items():
        assert x.isfinite().all(), name


@over(EVERY_OP, every_backend)
def test_non_contiguous_inputs(case, backend):
    inputs = case.inputs(reset="random")
    strided = changed(inputs, lambda x: x.mT.contiguous().mT)
    assert not any(x.is_contiguous() for x in strided.values())
    assert_close(case.outcome(strided, backend), case.outcome(inputs, "reference"), 1e-11)


@over(EVERY_OP, every_backend)
def test_expanded_inputs_and_gradients(case, backend):
    inputs = changed(case.inputs(reset="random"), lambda x: x[:1].expand_as(x))
    dense = changed(inputs, lambda x: x.contiguous())
    assert not any(x.is_contiguous() for x in floats(inputs).values())
    y, y_dense = (case.run(given, backend)["y"] for given in (inputs, dense))
    assert torch.equal(y, y_dense)
    got = gradients_of(y.sum(), inputs)  # the gradient of y is one number, expanded
    expected = gradients_of((y_dense * torch.ones_like(y)).sum(), dense)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@over(EVERY_OP, fast)
def test_a_loss_on_one_output(case, backend):
    inputs = case.inputs(reset="middle")
    for output in ("y", *case.state):
        got, expected = (
            gradients_of(case.run(inputs, name)[output].square().sum(), inputs)
            for name in (backend, "reference")
        )
        assert_close(got, expected, 1e-11)
        reached = [name for name, x in expected.items() if x.any()]
        assert reached == [name for name, x in got.items() if x.any()]
        assert set(case.state) & set(reached)
        assert output != "y" or len(reached) == len(floats(inputs))


@over(EVERY_OP, every_backend)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_two_calls_are_one(case, backend, data):
    case = data.draw(st.sampled_from([x for x in EVERY_CASE if x.name == case.name]), "case")
    T = data.draw(st.integers(2, 70), "T")
    cut = data.draw(st.integers(1, T - 1), "cut")
    B, H, K, V = data.draw(st.tuples(*[st.integers(1, 4)] * 4), "B, H, K, V")
    seed = data.draw(st.integers(0, 999), "seed")
    inputs = case.inputs(T, B, H, K=K, V=V, seed=seed, reset="random")
    whole = case.run(inputs, backend)
    before = case.run(case.over(inputs, steps=slice(cut)), backend)
    y = before.pop("y")
    after = case.run(case.over(inputs, steps=slice(cut, None)) | before, backend)
    assert_close(after | {"y": torch.cat([y, after["y"]])}, whole, 1e-9)


@over(EVERY_OP, every_backend)
def test_columns_are_independent(case, backend):
    inputs = case.inputs(reset="random")
    together = case.run(inputs, backend)
    alone = case.run(case.over(inputs, columns=slice(1, 2)), backend)
    assert_close(alone, case.over(together, columns=slice(1, 2)), 1e-11)


@pytest.mark.parametrize("T", [2, 40])
@over(EVERY_CASE, every_backend)
def test_the_last_loss_reaches_the_first_step(case, backend, T):
    inputs = case.inputs(T)

    def first(backend):
        gradients = gradients_of(case.run(inputs, backend)["y"][-1].square().sum(), inputs)
        reaching = [n for n in case.steps if n not in ONLY_READ.get(case.name, ())]
        return {n: gradients[n][0] for n in reaching} | {n: gradients[n] for n in case.state}

    got = first(backend)
    assert all(x.any() for x in got.values())
    assert_close(got, first("reference"), 1e-6)  # far smaller than the gradients of later steps


@pytest.mark.parametrize("T", [3, 40])
@over(EVERY_CASE, every_backend)
def test_a_reset_cuts_the_gradient_exactly(case, backend, T):
    reset = torch.zeros(T, 3, dtype=torch.bool)
    reset[T - 2] = True
    inputs = case.inputs(T, reset=reset)
    results = case.run(inputs, backend)
    results["y"] = results["y"][-1]
    gradients = gradients_of(weighted_sum(results), inputs)
    for name in case.state:
        assert not gradients[name].any(), name
    for name in case.steps:
        assert not gradients[name][: T - 2].any(), name
        assert gradients[name][T - 1].any(), name
    if "log_decay" in case.steps:  # what the reset erased, no decay can change
        assert not gradients["log_decay"][T - 2].any()


@pytest.mark.parametrize("T", [1, 40])
@over(EVERY_CASE, every_backend)
def test_a_reset_forgets_even_nan(case, backend, T):
    inputs = case.inputs(T, reset="first")
    with torch.no_grad():
        for name in case.state:
            inputs[name][:2] = float("nan")
    results = case.run(inputs, backend)
    cleared = case.over(results, columns=slice(None, None, 2))
    assert all(x.isfinite().all() for x in cleared.values())
    assert all(results[name][1].isnan().all() for name in case.state)
    gradients = gradients_of(weighted_sum(cleared), inputs)
    for name in case.steps:
        assert gradients[name][:, ::2].isfinite().all(), name
    everywhere = inputs | {"reset": torch.ones(T, 3, dtype=torch.bool)}
    for name, x in case.outcome(everywhere, backend).items():
        assert x.isfinite().all(), name


@over(EVERY_CASE, every_backend)
def test_a_reset_is_a_state_of_zeros(case, backend):
    inputs = case.inputs(reset="first")
    fresh = changed(inputs, torch.zeros_like, case.state) | {"reset": None}
    got, expected = (
        case.over(case.run(given, backend), columns=slice(None, None, 2))
        for given in (inputs, fresh)
    )
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@over([x for x in EVERY_CASE if "log_decay" in x.steps], every_backend)
def test_a_decay_of_zero_forgets(case, backend):
    inputs = case.inputs()
    with torch.no_grad():
        inputs["log_decay"][2] = -float("inf")
        results = case.run(inputs, backend)
        last = changed(inputs, torch.zeros_like, [*case.state, "log_decay"])
        fresh = case.run(case.over(last, steps=slice(2, 3)), backend)
    assert results["state"].isfinite().all()
    torch.testing.assert_close(results["y"][2:3], fresh["y"])


@pytest.mark.parametrize("T", [1, 5])
@over(EVERY_CASE, every_backend)
def test_the_inputs_are_neither_changed_nor_aliased(case, backend, T):
    inputs = case.inputs(T, reset="first")
    before = {n: x.detach().clone() for n, x in inputs.items() if x is not None}
    results = case.run(inputs, backend)
    weighted_sum(results).backward()
    with torch.no_grad():
        for number, x in enumerate(results.values()):
            x.fill_(number)
    assert all(torch.equal(before[n], inputs[n]) for n in before)
    assert all((x == number).all() for number, x in enumerate(results.values()))


@over([x for x in EVERY_OP if x.name == "srwm"])
def test_base_weights_lose_no_digits_to_a_large_gradient_of_the_state(case):
    """Theirs is a sum of small terms, not the difference of two large ones."""
    inputs = case.inputs(T=3, B=1, K=64, V=64, dtype=torch.float32)
    inputs = changed(inputs, lambda x: x / 64, [*case.shared, *case.state])

    def gradients(inputs, backend):
        results = case.run(inputs, backend)
        return gradients_of(sum(results[n].sum() for n in case.state), inputs)

    got, expected = gradients(inputs, "numba"), gradients(in_float64(inputs), "reference")
    assert_close(*({n: g[n] for n in case.shared} for g in (got, expected)), 1e-5)
