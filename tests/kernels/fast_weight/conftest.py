"""Random inputs of the op, and everything that a backend makes of them, by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fwp_rl.kernels import fast_weight

Inputs = dict[str, Tensor | None]


def _make_inputs(
    T: int = 5,
    B: int = 3,
    H: int = 2,
    K: int = 5,
    V: int = 7,
    *,
    dtype: torch.dtype = torch.float64,
    decay: bool = False,
    beta: bool = True,
    reset: Callable[[int, int], Tensor] | None = None,
    seed: int = 0,
) -> Inputs:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    floats = {
        "q": normalize(normal(T, B, H, K), dim=-1),
        "k": normalize(normal(T, B, H, K), dim=-1),
        "v": normal(T, B, H, V),
        "beta": normal(T, B, H).sigmoid() if beta else None,
        "state": normal(B, H, V, K),
        "log_decay": -normal(T, B, H).square() if decay else None,
    }
    inputs: Inputs = {
        name: None if x is None else x.to(dtype).requires_grad_() for name, x in floats.items()
    }
    return {**inputs, "reset": None if reset is None else reset(T, B)}


def _outcome(inputs: Inputs, *, rule: str = "delta", backend: str = "auto") -> dict[str, Tensor]:
    """y, the new state, and the gradient of every float input of a loss on both."""
    y, state = fast_weight(**inputs, rule=rule, backend=backend)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (x * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)).sum()
        for x in (y, state)
    )
    names = [name for name, x in inputs.items() if x is not None and x.requires_grad]
    gradients = torch.autograd.grad(loss, [inputs[name] for name in names])
    return {
        "y": y.detach(),
        "state": state.detach(),
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
def outcome() -> Any:
    return _outcome


@pytest.fixture(scope="session")
def assert_close() -> Any:
    return _assert_close
