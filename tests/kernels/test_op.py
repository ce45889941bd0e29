"""What follows from an op's description: results to fill, gradients to fill, random arguments."""

import pytest
import torch

from fwp_rl.kernels import OPS
from fwp_rl.kernels.samples import errors, flat, make_inputs, variants

SIZES = {"T": 5, "B": 3, "H": 2, "K": 4, "V": 7}

every_variant = pytest.mark.parametrize(
    ("op", "variant"),
    [
        pytest.param(op, variant, id=f"{op.name} {name}".strip())
        for op in OPS.values()
        for name, variant in variants(op).items()
    ],
)


def _arguments(op, inputs):
    """In the description's order, as ``torch.ops.fwp_rl`` takes them."""
    named = {**inputs, **dict(zip(op.state, flat(inputs["state"]), strict=True))}
    return [named[name] for name in (*op.inputs, *op.options)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_variant
def test_results_and_gradients_have_the_shapes_and_dtypes_of_the_references(op, variant, dtype):
    inputs = make_inputs(op, SIZES, variant, dtype=dtype, state_dtype=torch.float32)
    arguments = _arguments(op, inputs)
    expected = flat(op.run(**inputs, backend="reference"))
    made = op.results(arguments)
    outputs, saved = made[: len(expected)], made[len(expected) :]
    assert [(x.shape, x.dtype) for x in outputs] == [(x.shape, x.dtype) for x in expected]
    assert len(saved) == len(op.saved)
    for x in saved:
        assert x.dtype == torch.float32
        assert x.shape[:2] == (5, 3) or x.shape == (0,)
    differentiable = arguments[: len(op.inputs) - 1]  # reset is the last
    for gradient, x in zip(op.gradients(arguments), differentiable, strict=True):
        assert gradient.shape == (0,) if x is None else gradient.shape == x.shape
        assert x is None or gradient.dtype == x.dtype


@every_variant
def test_every_variant_runs(op, variant):
    inputs = make_inputs(op, SIZES, variant)
    assert all(
        (inputs[name] is not None) == given for name, given in variant.items() if name in op.inputs
    )
    assert max(errors(op, inputs, "numba").values()) < 1e-5


def test_variants_are_what_the_op_takes():
    assert {name: len(variants(op)) for name, op in OPS.items()} == {
        "fast_lstm": 1,
        "fast_rnn": 4,
        "fast_weight": 6,  # no delta rule without beta
        "recurrent_delta": 1,
        "srwm": 1,
    }
    first = next(iter(variants(OPS["fast_weight"]).values()))
    assert first == {"rule": "delta", "beta": True, "log_decay": True}


def test_the_least_is_given_by_default():
    inputs = make_inputs(OPS["fast_weight"], SIZES)
    assert inputs["beta"] is not None
    assert inputs["log_decay"] is None
    assert "rule" not in inputs
