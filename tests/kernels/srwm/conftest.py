"""Random inputs of the op, and everything that a backend makes of them, by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fwp_rl.kernels.srwm import srwm

Inputs = dict[str, Tensor | None]

STATE = ("dW_y", "dW_q", "dW_k", "dW_b")


def _make_inputs(
    T: int = 5,
    B: int = 3,
    H: int = 2,
    K: int = 5,
    V: int = 7,
    *,
    dtype: torch.dtype = torch.float64,
    reset: Callable[[int, int], Tensor] | None = None,
    seed: int = 0,
) -> Inputs:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    # wide enough for the queries, keys and rates to be far from uniform
    floats = {
        "x": 2 * normal(T, B, H, K),
        "W_y": normal(H, V, K),
        "W_q": 3 * normal(H, K, K),
        "W_k": 3 * normal(H, K, K),
        "W_b": 3 * normal(H, 4, K),
        "dW_y": normal(B, H, V, K),
        "dW_q": normal(B, H, K, K),
        "dW_k": normal(B, H, K, K),
        "dW_b": normal(B, H, 4, K),
    }
    inputs: Inputs = {name: x.to(dtype).requires_grad_() for name, x in floats.items()}
    return {**inputs, "reset": None if reset is None else reset(T, B)}


def _call(inputs: Inputs, **options: str) -> dict[str, Tensor]:
    x, W_y, W_q, W_k, W_b, *state, reset = inputs.values()
    y, after = srwm(x, W_y, W_q, W_k, W_b, tuple(state), reset=reset, **options)  # type: ignore[arg-type]
    return {"y": y, **dict(zip(STATE, after, strict=True))}


def _outcome(inputs: Inputs, **options: str) -> dict[str, Tensor]:
    """The results, and the gradient of every float input of a loss on all of them."""
    results = _call(inputs, **options)
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (x * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)).sum()
        for x in results.values()
    )
    names = [name for name, x in inputs.items() if x is not None and x.requires_grad]
    gradients = torch.autograd.grad(loss, [inputs[name] for name in names])
    return {
        **{name: x.detach() for name, x in results.items()},
        **{f"gradient of {name}": g for name, g in zip(names, gradients, strict=True)},
    }


def _assert_close(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Every tensor agrees to ``tolerance`` relative to the largest entry of the expected one."""
    assert got.keys() == expected.keys()
    for name, truth in expected.items():
        error = (got[name].double() - truth).abs().max()
        assert error <= tolerance * truth.abs().max().clamp_min(1e-6), f"{name}: off by {error:.1e}"


@pytest.fixture(scope="session")
def make_inputs() -> Any:
    return _make_inputs


@pytest.fixture(scope="session")
def call() -> Any:
    return _call


@pytest.fixture(scope="session")
def outcome() -> Any:
    return _outcome


@pytest.fixture(scope="session")
def assert_close() -> Any:
    return _assert_close
