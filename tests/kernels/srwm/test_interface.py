"""What the op accepts and refuses; dtypes, autocast, torch.compile, registration."""

import pytest
import torch

from fwp_rl.kernels import BackendError
from fwp_rl.kernels.srwm import srwm

BACKENDS = ("reference", "numba")


def some_resets(T, B):
    return torch.arange(T * B).reshape(T, B) % 3 == 0


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({"x": None}, {}, TypeError, r"x is None, expected a tensor \[T, B, H, K\]"),
        ({"x": torch.ones(0, 3, 2, 5)}, {}, ValueError, r"x has shape .* all sizes >= 1"),
        ({"W_y": torch.ones(3, 7, 5)}, {}, ValueError, r"W_y has shape .* = \(2, 7, 5\)"),
        ({"W_q": torch.ones(2, 5, 7)}, {}, ValueError, r"W_q has shape .* = \(2, 5, 5\)"),
        ({"W_k": torch.ones(2, 5, 5).int()}, {}, TypeError, r"W_k has dtype torch.int32, expected"),
        ({"W_b": torch.ones(2, 3, 5)}, {}, ValueError, r"W_b has shape .* = \(2, 4, 5\)"),
        ({"dW_y": torch.ones(3, 2, 5, 5)}, {}, ValueError, r"dW_y has shape .* = \(3, 2, 7, 5\)"),
        ({"dW_b": torch.ones(2, 4, 5)}, {}, ValueError, r"dW_b has shape .* \[B, H, 4, K\]"),
        ({"dW_q": torch.ones(3, 2, 5, 5).double()}, {}, TypeError, r"dW_q has dtype torch.float6"),
        ({"reset": torch.ones(5, 3)}, {}, TypeError, r"reset has dtype torch.float32, expected"),
        ({"reset": torch.ones(5, 2).bool()}, {}, ValueError, r"reset has shape .* = \(5, 3\)"),
        ({}, {"backend": "chunkwise"}, BackendError, r"srwm: backend 'chunkwise' .* no such"),
    ],
)
def test_bad_arguments_are_named(make_inputs, call, change, options, error, message):
    with pytest.raises(error, match=message) as raised:
        call(make_inputs(dtype=torch.float32) | change, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("state", [torch.ones(3, 2, 7, 5), (torch.ones(3, 2, 7, 5),), None])
def test_the_state_has_four_parts(make_inputs, state):
    x, W_y, W_q, W_k, W_b, *_ = make_inputs().values()
    with pytest.raises(TypeError, match=r"state is .*, expected a tuple \(dW_y, dW_q, dW_k, dW_b"):
        srwm(x, W_y, W_q, W_k, W_b, state)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(make_inputs, outcome, assert_close, backend, dtype):
    inputs = make_inputs(dtype=dtype, reset=some_resets)
    got = outcome(inputs, backend=backend)
    assert all(x.dtype == dtype for x in got.values())
    doubles = {
        n: x.detach().double().requires_grad_() if x.is_floating_point() else x
        for n, x in inputs.items()
    }
    assert_close(got, outcome(doubles, backend="reference"), 16 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_computes_in_float32(make_inputs, call, backend):
    inputs = make_inputs(dtype=torch.float32)
    mixed = inputs | {n: inputs[n].detach().bfloat16().requires_grad_() for n in ("x", "W_q")}
    with torch.autocast("cpu", torch.bfloat16):
        results = call(mixed, backend=backend)
    assert all(x.dtype == torch.float32 for x in results.values())
    widened = {n: None if x is None else x.detach().float() for n, x in mixed.items()}
    expected = call(widened, backend="reference")
    torch.testing.assert_close(results["y"].detach(), expected["y"])
    results["y"].sum().backward()
    assert mixed["x"].grad.dtype == torch.bfloat16


def test_compiles_into_one_graph(make_inputs, call, assert_close):
    inputs = make_inputs(reset=some_resets)

    def layer(x, *others):
        return call(dict(zip(inputs, (x.tanh(), *others), strict=True)))

    def gradients(run):
        results = run(*inputs.values())
        loss = sum(x.square().sum() for x in results.values())
        leaves = [x for x in inputs.values() if x.requires_grad]
        return results | dict(enumerate(torch.autograd.grad(loss, leaves)))

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(gradients(compiled), gradients(layer), 1e-12)


@pytest.mark.parametrize("resets", [True, False])
def test_registration(make_inputs, resets):
    arguments = tuple(make_inputs(reset=some_resets if resets else None).values())
    forward = torch.ops.fwp_rl.srwm.default
    torch.library.opcheck(forward, arguments)
    made = [x.detach() for x in forward(*arguments)]
    results, saved = made[:5], made[5:]
    arguments = [x.detach() if isinstance(x, torch.Tensor) else x for x in arguments]
    backward = torch.ops.fwp_rl.srwm_backward.default
    torch.library.opcheck(backward, (*arguments, *saved, *results))


def test_meta_tensors_get_shapes(make_inputs, call):
    inputs = {n: None if x is None else x.to("meta") for n, x in make_inputs().items()}
    shapes = {name: tuple(x.shape) for name, x in call(inputs).items()}
    assert shapes.pop("y") == (5, 3, 2, 7)
    assert shapes == {n: tuple(inputs[n].shape) for n in ("dW_y", "dW_q", "dW_k", "dW_b")}
