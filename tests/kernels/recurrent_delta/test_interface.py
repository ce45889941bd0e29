"""What the op accepts and refuses; dtypes, autocast, torch.compile, registration."""

import pytest
import torch

from fwp_rl.kernels import BackendError
from fwp_rl.kernels.recurrent_delta import recurrent_delta

BACKENDS = ("reference", "numba")


def some_resets(T, B):
    return torch.arange(T * B).reshape(T, B) % 3 == 0


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({"xq": None}, {}, TypeError, r"xq is None, expected a tensor \[T, B, H, K\]"),
        ({"xq": torch.ones(0, 3, 2, 5)}, {}, ValueError, r"xq has shape .* all sizes >= 1"),
        ({"xk": torch.ones(5, 3, 2, 6)}, {}, ValueError, r"xk has shape .* = \(5, 3, 2, 5\)"),
        (
            {"xv": torch.ones(5, 3, 2, 7).int()},
            {},
            TypeError,
            r"xv has dtype torch.int32, expected",
        ),
        ({"xb": torch.ones(5, 3)}, {}, ValueError, r"xb has shape .* = \(5, 3, 2\)"),
        ({"R_q": torch.ones(2, 7, 5)}, {}, ValueError, r"R_q has shape .* = \(2, 5, 7\)"),
        ({"R_v": torch.ones(2, 7, 5)}, {}, ValueError, r"R_v has shape .* = \(2, 7, 7\)"),
        ({"r_b": None}, {}, TypeError, r"r_b is None, expected a tensor \[H, V\]"),
        ({"W": torch.ones(3, 2, 5, 7)}, {}, ValueError, r"W has shape .* = \(3, 2, 7, 5\)"),
        ({"y_prev": torch.ones(3, 2, 7).double()}, {}, TypeError, r"y_prev has dtype torch.float6"),
        ({"reset": torch.ones(5, 3)}, {}, TypeError, r"reset has dtype torch.float32, expected"),
        ({}, {"backend": "chunkwise"}, BackendError, r"recurrent_delta: backend 'chunkwise' .* no"),
    ],
)
def test_bad_arguments_are_named(make_inputs, call, change, options, error, message):
    with pytest.raises(error, match=message) as raised:
        call(make_inputs(dtype=torch.float32) | change, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("state", [torch.ones(3, 2, 7, 5), (torch.ones(3, 2, 7, 5),), None])
def test_the_state_is_a_pair(make_inputs, state):
    *given, _, _, _ = make_inputs().values()
    with pytest.raises(TypeError, match=r"state is .*, expected a tuple \(W, y_prev\)"):
        recurrent_delta(*given, state)


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
    assert_close(got, outcome(doubles, backend="reference"), 8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_computes_in_float32(make_inputs, call, backend):
    inputs = make_inputs(dtype=torch.float32)
    mixed = inputs | {n: inputs[n].detach().bfloat16().requires_grad_() for n in ("xq", "xk", "xv")}
    with torch.autocast("cpu", torch.bfloat16):
        results = call(mixed, backend=backend)
    assert all(x.dtype == torch.float32 for x in results.values())
    widened = {n: None if x is None else x.detach().float() for n, x in mixed.items()}
    expected = call(widened, backend="reference")
    torch.testing.assert_close(results["y"].detach(), expected["y"])
    results["y"].sum().backward()
    assert mixed["xk"].grad.dtype == torch.bfloat16


def test_compiles_into_one_graph(make_inputs, call, assert_close):
    inputs = make_inputs(reset=some_resets)

    def gradients(run):
        results = run(inputs)
        loss = sum(x.square().sum() for x in results.values())
        leaves = [x for x in inputs.values() if x.requires_grad]
        return results | dict(enumerate(torch.autograd.grad(loss, leaves)))

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert_close(gradients(compiled), gradients(call), 1e-12)


def test_registration(make_inputs):
    arguments = tuple(make_inputs(T=3, K=3, V=2, reset=some_resets).values())
    forward = torch.ops.fwp_rl.recurrent_delta.default
    torch.library.opcheck(forward, arguments)
    y, W, y_prev, *saved = (x.detach() for x in forward(*arguments))
    backward = torch.ops.fwp_rl.recurrent_delta_backward.default
    arguments = tuple(x.detach() for x in arguments)
    torch.library.opcheck(backward, (*arguments, *saved, y, W, y_prev))


def test_meta_tensors_get_shapes(make_inputs, call):
    inputs = {n: None if x is None else x.to("meta") for n, x in make_inputs().items()}
    shapes = {name: tuple(x.shape) for name, x in call(inputs).items()}
    assert shapes == {"y": (5, 3, 2, 7), "W": (3, 2, 7, 5), "y_prev": (3, 2, 7)}
