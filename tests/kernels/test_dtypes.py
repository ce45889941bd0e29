"""Every op takes float32 state beside inputs of half precision, and gives it back as it came."""

import pytest
import torch

from fwp_rl.kernels import OPS, fast_rnn, fast_weight
from fwp_rl.kernels.samples import flat, make_inputs

SIZES = {"T": 5, "B": 3, "H": 2, "K": 8, "V": 8}


def _mixed(op, dtype):
    """Inputs of half precision, with gradients, beside a float32 state."""
    mixed = make_inputs(op, SIZES, dtype=dtype, state_dtype=torch.float32)
    for x in flat(mixed):
        x.requires_grad_(x.is_floating_point())
    return mixed


def _widened(inputs):
    """The same numbers in float64."""
    return {
        name: tuple(x.detach().double().requires_grad_() for x in value)
        if isinstance(value, tuple)
        else value.detach().double().requires_grad_()
        if value is not None and value.is_floating_point()
        else value
        for name, value in inputs.items()
    }


def _results(op, inputs, backend):
    outputs = flat(op.run(**inputs, backend=backend))
    leaves = [x for x in flat(inputs) if x.requires_grad]
    loss = sum((x.double() * torch.linspace(-1, 1, x.numel()).view(x.shape)).sum() for x in outputs)
    return outputs, list(zip(leaves, torch.autograd.grad(loss, leaves), strict=True))


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OPS)
def test_the_state_stays_in_float32(name, dtype, backend):
    op = OPS[name]
    inputs = _mixed(op, dtype)
    (y, *state), gradients = _results(op, inputs, backend)
    assert y.dtype == dtype
    assert all(x.dtype == torch.float32 for x in state)
    assert all(gradient.dtype == leaf.dtype for leaf, gradient in gradients)
    (y_64, *state_64), gradients_64 = _results(op, _widened(inputs), "reference")
    for got, truth in zip(state, state_64, strict=True):
        torch.testing.assert_close(got.double(), truth, rtol=1e-5, atol=1e-5)
    eps = torch.finfo(dtype).eps
    pairs = [(y, y_64), *((a, b) for (_, a), (_, b) in zip(gradients, gradients_64, strict=True))]
    for got, truth in pairs:
        assert (got.double() - truth).abs().max() <= 4 * eps * truth.abs().max()


def test_a_chain_of_calls_loses_nothing_between_them():
    """In bfloat16 a small write into a large state would be rounded away."""
    op = OPS["fast_weight"]
    inputs = make_inputs(op, SIZES, dtype=torch.bfloat16, state_dtype=torch.float32)
    inputs["reset"] = torch.zeros_like(inputs["reset"])
    whole = flat(op.run(**inputs))[1]
    state = inputs["state"]
    for t in range(SIZES["T"]):
        step = {n: x if n in ("state", "log_decay") else x[t : t + 1] for n, x in inputs.items()}
        _, state = op.run(**step | {"state": state})
    torch.testing.assert_close(state, whole)


def test_other_mixtures_are_refused():
    halves = make_inputs(OPS["fast_rnn"], SIZES)
    for name in ("z", "k", "v", "beta"):
        halves[name] = halves[name].bfloat16()
    R, y_prev = halves["state"]
    fast_rnn(**halves | {"state": (R, y_prev.bfloat16())})
    expected = r"R has dtype torch.float64, expected torch.bfloat16 or torch.float32 beside z's"
    with pytest.raises(TypeError, match=expected):
        fast_rnn(**halves | {"state": (R.double(), y_prev)})
    with pytest.raises(TypeError, match=r"k has dtype torch.float32, expected torch.bfloat16 bes"):
        fast_rnn(**halves | {"k": halves["k"].float()})
    singles = make_inputs(OPS["fast_weight"], SIZES)
    with pytest.raises(TypeError, match=r"state has dtype torch.bfloat16, expected torch.float32"):
        fast_weight(**singles | {"state": singles["state"].bfloat16()})
