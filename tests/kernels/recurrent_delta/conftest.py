"""Random inputs of the op, and everything that a backend makes of them, by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fwp_rl.kernels.recurrent_delta import recurrent_delta

Inputs = dict[str, Tensor | None]


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

    floats = {
        "xq": normal(T, B, H, K),
        "xk": normal(T, B, H, K),
        "xv": normal(T, B, H, V),
        "xb": normal(T, B, H),
        "R_q": normal(H, K, V) / V**0.5,  # any wider, and rounding errors grow with time
        "R_k": normal(H, K, V) / V**0.5,
        "R_v": normal(H, V, V) / V**0.5,
        "r_b": normal(H, V) / V**0.5,
        "W": normal(B, H, V, K),
        "y_prev": normal(B, H, V),
    }
    inputs: Inputs = {name: x.to(dtype).requires_grad_() for name, x in floats.items()}
    return {**inputs, "reset": None if reset is None else reset(T, B)}


def _call(inputs: Inputs, **options: str) -> dict[str, Tensor]:
    *given, W, y_prev, reset = inputs.values()
    y, (W, y_prev) = recurrent_delta(*given, (W, y_prev), reset=reset, **options)  # type: ignore[arg-type]
    return {"y": y, "W": W, "y_prev": y_prev}


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
