"""A gradient horizon: the gradients are those of a loop that detaches the state."""

from collections import Counter
from functools import cache

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .cases import EVERY_CASE, EVERY_OP, assert_close, every_backend, fast, over, with_gradients

STEPS = 37  # chunks of the backends end after 16 and 32 steps
HORIZONS = {1: "random", 3: "middle", 7: "never", 16: "random", STEPS - 1: "random"}
"""Horizon → the resets beside it."""


def by_pieces(case, inputs, horizon):
    """What the op without a horizon makes of so many steps at a time; in between, the state is
    detached."""
    steps, state, ys = len(inputs[case.steps[0]]), {n: inputs[n] for n in case.state}, []
    for start in range(0, steps, horizon):
        if start:
            state = {n: x.detach() for n, x in state.items()}
        piece = case.over(inputs, steps=slice(start, start + horizon))
        state = case.run(piece | state, "reference")
        ys.append(state.pop("y"))
    return {"y": torch.cat(ys), **state}


@cache
def expected(case, steps, horizon, reset):
    """The outcome of the loop, and the inputs."""
    inputs = case.inputs(steps, reset=reset)
    return with_gradients(by_pieces(case, inputs, horizon), inputs), inputs


@pytest.mark.parametrize("horizon", HORIZONS)
@over(EVERY_CASE, fast)
def test_gradients_are_those_of_a_loop_that_detaches(case, backend, horizon):
    truth, inputs = expected(case, STEPS, horizon, HORIZONS[horizon])
    assert_close(case.outcome(inputs, backend, horizon=horizon), truth, 1e-9)


@pytest.mark.parametrize("horizon", [1, 3, 8])
@over(EVERY_CASE)
def test_the_references_are_too(case, horizon):
    truth, inputs = expected(case, 9, horizon, "random")
    assert_close(case.outcome(inputs, "reference", horizon=horizon), truth, 1e-12)


@pytest.mark.parametrize("last", [1, 2])
@over(EVERY_CASE, every_backend)
def test_what_the_last_step_reaches(case, backend, last):
    """Not before the last cut: the horizon is 3, of 6 + ``last`` steps."""
    inputs = case.inputs(6 + last)
    results = case.run(inputs, backend, horizon=3)
    loss = results["y"][-1].square().sum() + sum(results[n].sum() for n in case.state)
    for name, gradient in zip(
        case.steps, torch.autograd.grad(loss, [inputs[n] for n in case.steps]), strict=True
    ):
        assert not gradient[:6].any(), name
        assert gradient[6:].any(), name


@over(EVERY_CASE, every_backend)
def test_a_horizon_beyond_the_last_step_cuts_nothing(case, backend):
    inputs = case.inputs(9, reset="random")
    exact = case.outcome(inputs, backend)
    for horizon in (9, 10, 10**30):
        got = case.outcome(inputs, backend, horizon=horizon)
        assert all(torch.equal(got[name], exact[name]) for name in exact)


@over(EVERY_OP, every_backend)
def test_a_gradient_that_is_not_finite_ends_at_the_cut(case, backend):
    inputs = case.inputs(9)
    y = case.run(inputs, backend, horizon=3)["y"]
    loss = (y[-1] * float("inf")).sum()
    for name in case.steps:
        (gradient,) = torch.autograd.grad(loss, inputs[name], retain_graph=True)
        assert not gradient[:6].any(), name


class Calls(TorchDispatchMode):
    """Counts what torch is asked to do."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[str(func)] += 1
        return func(*args, **kwargs or {})


@over(EVERY_OP, every_backend)
def test_without_gradients_there_is_no_horizon(case, backend):
    inputs, counts = case.inputs(5), []
    for horizon in (None, 1):
        with torch.no_grad(), Calls() as calls:
            case.run(inputs, backend, horizon=horizon)
        counts.append(calls.count)
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("horizon", "error", "message"),
    [
        (0, ValueError, "gradient_horizon is 0, expected at least 1 step, or None for exact"),
        (-3, ValueError, "gradient_horizon is -3, expected at least 1 step"),
        (2.5, TypeError, "gradient_horizon is of type float, expected a number of steps or None"),
        (True, TypeError, "gradient_horizon is of type bool, expected a number of steps or None"),
    ],
)
@pytest.mark.parametrize("gradients", [True, False])
@over(EVERY_OP)
def test_what_is_no_horizon_is_refused(case, horizon, error, message, gradients):
    with torch.set_grad_enabled(gradients), pytest.raises(error, match=message):
        case.run(case.inputs(), horizon=horizon)
