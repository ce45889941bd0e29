"""Every core against its oracle in oracles/: outputs, final states and gradients.

Gradients are compared along one random direction of all parameters, the input and the state at
once: the oracle's derivative of a weighted sum of all outputs, by the complex step, with autograd's
inner product.
"""

import dataclasses
import functools
import importlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from oracles.blocks import Array, Weights

from fwp_rl.cores import CORES, CoreConfig, build_core
from fwp_rl.kernels import use_backend

STEPS, COLUMNS, INPUT_SIZE = 6, 2, 5
COMPLEX_STEP = 1e-30  # nothing is subtracted, so nothing cancels

SIZES = {"layers": 2, "hidden_size": 6, "heads": 2, "head_size": 4, "feedforward_size": 5}
"""Of all cores that know the option."""

ORACLES = {
    path.stem: importlib.import_module(f"oracles.{path.stem}")
    for path in sorted((Path(__file__).parent / "oracles").glob("*.py"))
    if path.stem != "blocks"
}


def cases() -> dict[str, tuple[str, CoreConfig]]:
    """An oracle lists the options that it is to be tried with, in OPTIONS; none means defaults."""
    found: dict[str, tuple[str, CoreConfig]] = {}
    for name, oracle in ORACLES.items():
        known = {field.name for field in dataclasses.fields(CORES[name])}
        sizes = {key: value for key, value in SIZES.items() if key in known}
        for options in getattr(oracle, "OPTIONS", [{}]):
            words = (f"{key}={value}" for key, value in options.items())
            found["-".join([name, *words])] = name, CORES[name](**sizes | options)
    return found


CASES = cases()


class Problem(NamedTuple):
    """A core's weights and what it is asked, in float64, with the oracle's answers."""

    weights: Weights
    inputs: list[Array]
    """x [T, B, D] and the leaves of the state before it."""
    reset: Array
    direction: list[Array]
    """In which parameters and inputs move."""
    loss: list[Array]
    """Weights of the outputs, y and the leaves of the state after it, in a sum."""
    outputs: list[Array]
    derivative: float


@functools.cache
def problem(case: str) -> Problem:
    name, config = CASES[case]
    torch.manual_seed(5)
    core = build_core(config, INPUT_SIZE)
    with torch.no_grad():
        for p in core.parameters():
            p.add_(0.1 * torch.randn_like(p))  # what starts at 0 or 1 would hide mistakes
        never = torch.zeros(4, COLUMNS, dtype=torch.bool)
        before = torch.randn(4, COLUMNS, INPUT_SIZE)
        _, state = core(before, core.initial_state(COLUMNS), never)
    reset = np.zeros((STEPS, COLUMNS), bool)
    reset[0, 0] = reset[3, 1] = reset[-1, 1] = True
    weights = {name: value.double().numpy() for name, value in core.state_dict().items()}
    parameters = [name for name, _ in core.named_parameters()]
    inputs = [x.double().numpy() for x in (1.5 * torch.randn(STEPS, COLUMNS, INPUT_SIZE), *state)]

    def outputs(moved: list[Array]) -> list[Array]:
        """Of the oracle, for parameters and inputs."""
        these = weights | dict(zip(parameters, moved, strict=False))
        x, *leaves = moved[len(parameters) :]
        y, after = ORACLES[name].run(these, config, x, tuple(leaves), reset)
        return [y, *after]

    rng = np.random.default_rng(7)
    point = [*(weights[name] for name in parameters), *inputs]
    direction = [rng.standard_normal(x.shape) for x in point]
    found = outputs(point)
    loss = [rng.standard_normal(y.shape) for y in found]
    step = 1j * COMPLEX_STEP
    moved = outputs([x + step * d for x, d in zip(point, direction, strict=True)])
    derivative = sum((w * y.imag).sum() for w, y in zip(loss, moved, strict=True)) / COMPLEX_STEP
    return Problem(weights, inputs, reset, direction, loss, found, derivative)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [("reference", torch.float64, 1e-10), ("numba", torch.float32, 1e-4)],
)
def test_core_follows_its_equations(
    case: str, backend: str, dtype: torch.dtype, tolerance: float
) -> None:
    asked = problem(case)
    core = build_core(CASES[case][1], INPUT_SIZE).to(dtype)
    core.load_state_dict({name: torch.from_numpy(x) for name, x in asked.weights.items()})
    x, *state = (torch.from_numpy(x).to(dtype).requires_grad_() for x in asked.inputs)
    with use_backend(backend):
        y, after = core(x, tuple(state), torch.from_numpy(asked.reset))
        outputs = [y, *after]
        loss: Any = sum(
            (torch.from_numpy(w) * y).sum() for w, y in zip(asked.loss, outputs, strict=True)
        )
        gradients = torch.autograd.grad(
            loss, [*core.parameters(), x, *state], materialize_grads=True
        )
    for actual, expected in zip(outputs, asked.outputs, strict=True):
        np.testing.assert_allclose(actual.detach(), expected, rtol=tolerance, atol=tolerance)
    products = [
        (g * torch.from_numpy(d)).flatten() for g, d in zip(gradients, asked.direction, strict=True)
    ]
    terms = torch.cat(products)
    assert terms.sum().item() == pytest.approx(
        asked.derivative, rel=0, abs=tolerance * terms.norm().item()
    )


def test_every_memory_has_an_oracle() -> None:
    assert set(ORACLES) == set(CORES) - {"feedforward"}
