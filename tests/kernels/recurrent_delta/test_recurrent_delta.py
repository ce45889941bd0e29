"""recurrent_delta: the numba kernels against float64 autograd of the reference."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fwp_rl.kernels.recurrent_delta import recurrent_delta

NAMES = ("xq", "xk", "xv", "xb", "R_q", "R_k", "R_v", "r_b", "W", "y_prev")
RESETS: dict[str, Callable[[int], list[int]]] = {
    "never": lambda T: [],
    "some": lambda T: list(range(2, T, 7)),
    "first": lambda T: [0],
    "last": lambda T: [T - 1],
    "every step": lambda T: list(range(T)),
}


def make_inputs(T: int, B: int, H: int, K: int, V: int, reset: str) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (x if x.ndim == 4 and shape[0] == T else 0.5 * x).requires_grad_()

    inputs = [
        normal(T, B, H, K), normal(T, B, H, K), normal(T, B, H, V), normal(T, B, H),
        normal(H, K, V), normal(H, K, V), normal(H, V, V), normal(H, V),
        normal(B, H, V, K), normal(B, H, V),
    ]  # fmt: skip
    flags = torch.zeros(T, B, dtype=torch.bool)
    flags[RESETS[reset](T), 0] = True
    return inputs, flags


def outcome(inputs: list[Tensor], flags: Tensor | None, backend: str) -> dict[str, Tensor]:
    """Results, and the gradient of every input of a loss on all of them."""
    *given, W, y_prev = inputs
    y, state = recurrent_delta(*given, (W, y_prev), reset=flags, backend=backend)
    results = {"y": y, "W": state[0], "y_prev": state[1]}
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (x * torch.randn(x.shape, generator=generator, dtype=torch.float64)).sum()
        for x in results.values()
    )
    gradients = torch.autograd.grad(loss, inputs)
    named = {f"gradient of {n}": g for n, g in zip(NAMES, gradients, strict=True)}
    return {name: x.detach() for name, x in (results | named).items()}


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("T", [1, 5, 37])
@pytest.mark.parametrize("sizes", [(2, 3, 5, 7), (2, 2, 33, 4), (1, 1, 1, 1)])
def test_numba_is_the_reference(T: int, sizes: tuple[int, ...], reset: str) -> None:
    inputs, flags = make_inputs(T, *sizes, reset)
    expected = outcome(inputs, flags, "reference")
    for name, x in outcome(inputs, flags, "numba").items():
        scale = expected[name].abs().max().clamp_min(1e-6)
        assert (x - expected[name]).abs().max() <= 1e-10 * scale, name


def test_one_call_is_two_calls_with_the_state_carried() -> None:
    inputs, flags = make_inputs(9, 2, 2, 4, 3, "some")
    *steps, R_q, R_k, R_v, r_b, W, y_prev = inputs
    whole, _ = recurrent_delta(*steps, R_q, R_k, R_v, r_b, (W, y_prev), reset=flags)
    state, parts = (W, y_prev), []
    for part in (slice(0, 4), slice(4, 9)):
        cut = [x[part] for x in steps]
        y, state = recurrent_delta(*cut, R_q, R_k, R_v, r_b, state, reset=flags[part])
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)


def test_the_reference_has_the_right_gradient() -> None:
    inputs, flags = make_inputs(3, 1, 1, 2, 3, "last")

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        y, state = recurrent_delta(*given[:-2], given[-2:], reset=flags, backend="reference")  # type: ignore[arg-type]
        return (y, *state)

    assert torch.autograd.gradcheck(run, inputs)


def test_torch_knows_the_op() -> None:
    inputs, flags = make_inputs(3, 2, 1, 3, 2, "some")
    torch.library.opcheck(torch.ops.fwp_rl.recurrent_delta.default, (*inputs, flags))


def test_bad_arguments_are_named() -> None:
    inputs, flags = make_inputs(3, 2, 1, 3, 2, "some")
    *given, W, y_prev = inputs
    with pytest.raises(ValueError, match=r"R_v has shape \(1, 3, 2\), expected \[H, V, V\]"):
        recurrent_delta(*given[:6], inputs[4], given[7], (W, y_prev))
    with pytest.raises(TypeError, match=r"reset has dtype torch.int64, expected torch.bool"):
        recurrent_delta(*given, (W, y_prev), reset=flags.long())
    with pytest.raises(TypeError, match=r"state is of type Tensor, expected a tuple"):
        recurrent_delta(*given, W)  # type: ignore[arg-type]
