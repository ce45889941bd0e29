"""What the op accepts and refuses; dtypes, autocast, torch.compile, registration."""

import pytest
import torch

from fwp_rl.kernels import BackendError

BACKENDS = ("reference", "numba")


def some_resets(T, B):
    return torch.arange(T * B).reshape(T, B) % 3 == 0


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({"z": None}, {}, TypeError, r"z is None, expected a tensor \[T, B, 3, H, V\]"),
        ({"z": torch.ones(5, 3, 2, 2, 7)}, {}, ValueError, r"z has shape .*expected \[T, B, 3, H"),
        ({"z": torch.ones(5, 3, 2, 7)}, {}, ValueError, r"z has shape .*expected \[T, B, 3, H"),
        ({"k": torch.ones(5, 3, 3, 2, 6)}, {}, ValueError, r"k has shape .* \(5, 3, 3, 2, 7\)"),
        ({"v": torch.ones(5, 3, 3, 2, 7).int()}, {}, TypeError, r"v has dtype torch.int32, exp"),
        ({"beta": torch.ones(5, 3, 2)}, {}, ValueError, r"beta has shape .* \(5, 3, 3, 2\)"),
        ({"R": torch.ones(3, 2, 7, 7)}, {}, ValueError, r"R has shape .* \(3, 3, 2, 7, 7\)"),
        ({"c": torch.ones(3, 2, 6)}, {}, ValueError, r"c has shape .* = \(3, 2, 7\)"),
        ({"h": torch.ones(3, 2, 7).double()}, {}, TypeError, r"h has dtype torch.float64, expect"),
        ({"reset": torch.ones(5, 3)}, {}, TypeError, r"reset has dtype torch.float32, expected"),
        ({}, {"backend": "chunkwise"}, BackendError, r"fast_lstm: backend 'chunkwise' .* no such"),
    ],
)
def test_bad_arguments_are_named(make_inputs, call, change, options, error, message):
    with pytest.raises(error, match=message) as raised:
        call(make_inputs(dtype=torch.float32) | change, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("state", [torch.ones(3, 2, 7, 7), (torch.ones(3, 2, 7, 7),), None])
def test_the_state_is_a_triple(make_inputs, state):
    from fwp_rl.kernels.fast_lstm import fast_lstm

    z, k, v, beta, *_ = make_inputs().values()
    with pytest.raises(TypeError, match=r"state is .*, expected a tuple \(R, c, h\)"):
        fast_lstm(z, k, v, beta, state)


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
    mixed = inputs | {n: inputs[n].detach().bfloat16().requires_grad_() for n in ("z", "k", "v")}
    with torch.autocast("cpu", torch.bfloat16):
        results = call(mixed, backend=backend)
    assert all(x.dtype == torch.float32 for x in results.values())
    widened = {n: None if x is None else x.detach().float() for n, x in mixed.items()}
    expected = call(widened, backend="reference")
    torch.testing.assert_close(results["y"].detach(), expected["y"])
    results["y"].sum().backward()
    assert mixed["k"].grad.dtype == torch.bfloat16


def test_compiles_into_one_graph(make_inputs, call, assert_close):
    inputs = make_inputs(reset=some_resets)

    def layer(z, k, v, beta, R, c, h, reset):
        names = ("z", "k", "v", "beta", "R", "c", "h", "reset")
        values = (z, k.softmax(-1), v, beta.sigmoid(), R, c, h, reset)
        return call(dict(zip(names, values, strict=True)))

    def gradients(run):
        results = run(*inputs.values())
        loss = sum(x.square().sum() for x in results.values())
        leaves = [x for x in inputs.values() if x.requires_grad]
        return results | dict(enumerate(torch.autograd.grad(loss, leaves)))

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(gradients(compiled), gradients(layer), 1e-12)


@pytest.mark.parametrize("resets", [True, False])
def test_registration(make_inputs, resets):
    inputs = make_inputs(reset=some_resets if resets else None)
    arguments = tuple(inputs.values())
    forward = torch.ops.fwp_rl.fast_lstm.default
    torch.library.opcheck(forward, arguments)
    y, R, c, h, *saved = (x.detach() for x in forward(*arguments))
    arguments = [x.detach() if isinstance(x, torch.Tensor) else x for x in arguments]
    backward = torch.ops.fwp_rl.fast_lstm_backward.default
    torch.library.opcheck(backward, (*arguments, *saved, y, R, c, h))


def test_meta_tensors_get_shapes(make_inputs, call):
    inputs = {n: None if x is None else x.to("meta") for n, x in make_inputs().items()}
    shapes = {name: tuple(x.shape) for name, x in call(inputs).items()}
    assert shapes == {"y": (5, 3, 2, 7), "R": (3, 3, 2, 7, 7), "c": (3, 2, 7), "h": (3, 2, 7)}
