"""What the op accepts and refuses; dtypes, autocast, torch.compile, registration."""

import pytest
import torch

from fwp_rl.kernels import BackendError, fast_weight

ALL = ("reference", "chunkwise", "numba")


def some_resets(T, B):
    return torch.arange(T * B).reshape(T, B) % 3 == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q": torch.ones(5, 3, 2)}, ValueError, r"q has shape \(5, 3, 2\), expected \[T, B, H, K"),
        ({"q": torch.ones(0, 3, 2, 5)}, ValueError, r"q has shape \(0, 3, 2, 5\).* all sizes >= 1"),
        ({"q": torch.ones(5, 0, 2, 5)}, ValueError, r"q has shape \(5, 0, 2, 5\).* all sizes >= 1"),
        ({"q": None}, TypeError, r"q is None, expected a tensor \[T, B, H, K\]"),
        ({"q": torch.ones(5, 3, 2, 5).int()}, TypeError, r"q has dtype torch.int32, expected one"),
        ({"k": torch.ones(5, 3, 2, 6)}, ValueError, r"k has shape .* = \(5, 3, 2, 5\)"),
        ({"k": [1.0]}, TypeError, r"k is of type list, expected a tensor"),
        ({"v": torch.ones(5, 2, 2, 7)}, ValueError, r"v has shape .* = \(5, 3, 2, 7\)"),
        ({"v": torch.ones(5, 3, 2, 0)}, ValueError, r"v has shape .* all sizes >= 1"),
        ({"beta": None}, ValueError, r"beta is None, .*rule=\"sum\""),
        ({"beta": torch.ones(5, 3, 2, 1)}, ValueError, r"beta has shape .* = \(5, 3, 2\)"),
        ({"beta": torch.ones(5, 3, 2).double()}, TypeError, r"beta has dtype torch.float64, exp"),
        ({"state": None}, TypeError, r"state is None, expected a tensor \[B, H, V, K\]"),
        ({"state": torch.ones(3, 2, 5, 7)}, ValueError, r"state has shape .* = \(3, 2, 7, 5\)"),
        ({"state": torch.ones(3, 2, 7, 5, device="meta")}, ValueError, r"state is on meta, exp"),
        ({"log_decay": torch.ones(5, 3)}, ValueError, r"log_decay has shape .* = \(5, 3, 2\)"),
        (
            {"log_decay": torch.ones(5, 3, 2).half()},
            TypeError,
            r"log_decay has dtype torch.float16",
        ),
        ({"reset": torch.ones(3, 5).bool()}, ValueError, r"reset has shape .* = \(5, 3\)"),
        (
            {"reset": torch.ones(5, 3)},
            TypeError,
            r"reset has dtype torch.float32, expected torch.b",
        ),
        (
            {"rule": "Delta"},
            ValueError,
            r"unknown rule 'Delta'. Did you mean 'delta'\? Known: delt",
        ),
        (
            {"backend": "chunk"},
            BackendError,
            r"unknown backend 'chunk'. Did you mean 'chunkwise'\?",
        ),
    ],
)
def test_bad_arguments_are_named(make_inputs, change, error, message):
    with pytest.raises(error, match=message) as raised:
        fast_weight(**(make_inputs(dtype=torch.float32) | change))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(make_inputs, outcome, assert_close, backend, dtype):
    inputs = make_inputs(dtype=dtype, decay=True, reset=some_resets)
    got = outcome(inputs, backend=backend)
    assert all(x.dtype == dtype for x in got.values())
    doubles = {
        n: x.detach().double().requires_grad_() if x.is_floating_point() else x
        for n, x in inputs.items()
    }
    assert_close(got, outcome(doubles, backend="reference"), 8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("backend", ALL)
def test_autocast_computes_in_float32(make_inputs, backend):
    inputs = make_inputs(dtype=torch.float32)
    mixed = inputs | {n: inputs[n].detach().bfloat16().requires_grad_() for n in ("q", "k", "v")}
    with torch.autocast("cpu", torch.bfloat16):
        y, state = fast_weight(**mixed, backend=backend)
        assert torch.is_autocast_enabled("cpu")
    assert y.dtype == state.dtype == torch.float32
    widened = {n: None if x is None else x.detach().float() for n, x in mixed.items()}
    expected, _ = fast_weight(**widened, backend="reference")
    torch.testing.assert_close(y.detach(), expected)
    y.sum().backward()
    assert mixed["k"].grad.dtype == torch.bfloat16


@pytest.mark.parametrize("backend", ["auto", "chunkwise"])
@pytest.mark.parametrize("rule", ["delta", "sum"])
def test_compiles_into_one_graph(make_inputs, outcome, assert_close, backend, rule):
    inputs = make_inputs(decay=True, reset=some_resets)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def layer(q, k, v, beta, state, log_decay, reset):
        return fast_weight(
            q, k.softmax(-1), v, beta.sigmoid(), state,
            log_decay=log_decay, reset=reset, rule=rule, backend=backend,
        )  # fmt: skip

    y, state = layer(**inputs)
    plain = inputs | {"k": inputs["k"].softmax(-1), "beta": inputs["beta"].sigmoid()}
    expected = fast_weight(**plain, rule=rule, backend="reference")
    leaves = [x for x in inputs.values() if x.requires_grad]
    for got, truth in zip((y, state), expected, strict=True):
        torch.testing.assert_close(got, truth)
        grads = zip(
            torch.autograd.grad(got.square().sum(), leaves, retain_graph=True, allow_unused=True),
            torch.autograd.grad(truth.square().sum(), leaves, retain_graph=True, allow_unused=True),
            strict=True,
        )
        for grad, true_grad in grads:
            torch.testing.assert_close(
                grad, torch.zeros_like(grad) if true_grad is None else true_grad
            )


@pytest.mark.parametrize("rule", ["delta", "sum"])
@pytest.mark.parametrize("optional", [True, False])
def test_registration(make_inputs, rule, optional):
    inputs = make_inputs(decay=optional, beta=optional or rule == "delta", reset=some_resets)
    arguments = (*inputs.values(), rule) if optional else (*list(inputs.values())[:-1], None, rule)
    forward = torch.ops.fwp_rl.fast_weight.default
    torch.library.opcheck(forward, arguments)
    y, state, u = (x.detach() for x in forward(*arguments))
    arguments = [x.detach() if isinstance(x, torch.Tensor) else x for x in arguments]
    backward = torch.ops.fwp_rl.fast_weight_backward.default
    torch.library.opcheck(backward, (*arguments, u, y, state))


def test_meta_tensors_get_shapes(make_inputs):
    inputs = {n: None if x is None else x.to("meta") for n, x in make_inputs().items()}
    y, state = fast_weight(**inputs)
    assert (y.shape, state.shape) == ((5, 3, 2, 7), (3, 2, 7, 5))
