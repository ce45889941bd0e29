"""Random arguments of an op, from its description, and what a backend makes of them: for tests,
benchmarks and ``fwp-rl doctor``."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

from fwp_rl.kernels.inputs import Argument
from fwp_rl.kernels.op import Op

__all__ = ["doubled", "errors", "flat", "leaves_of", "make_inputs", "outcome", "variants"]

Variant = Mapping[str, str | bool]
"""Option → its value; optional input, or group of sizes → whether it is there."""


def variants(op: Op) -> dict[str, Variant]:
    """Name → variant: every combination of options, of optional inputs, but ``reset``, and of
    groups of sizes that the op takes. The first has the first option of each kind, and all
    else."""
    optional = [x.name for x in op.arguments if x.optional and x.name != "reset"] + [*op.groups]
    found: dict[str, Variant] = {}
    for options in product(*op.options.values()):
        for given in product((True, False), repeat=len(optional)):
            variant: dict[str, str | bool] = {
                **dict(zip(op.options, options, strict=True)),
                **dict(zip(optional, given, strict=True)),
            }
            if all(
                not _barred(op, name, variant) if variant[name] else not _needs(op, name, variant)
                for name in optional
            ):
                left_out = [f"without {name}" for name in optional if not variant[name]]
                found[", ".join([*options, *left_out])] = variant
    return found


def _needs(op: Op, name: str, variant: Variant) -> bool:
    """Whether an optional input has to be given, under the options of a variant or the first."""
    return name in op.only and _chosen(op, variant, *op.only[name])


def _barred(op: Op, name: str, variant: Variant) -> bool:
    """Whether it must not be."""
    return name in op.barred and _chosen(op, variant, *op.barred[name])


def _chosen(op: Op, variant: Variant, option: str, value: str) -> bool:
    return variant.get(option, op.options[option][0]) == value


def make_inputs(
    op: Op,
    sizes: Mapping[str, int],
    variant: Variant | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    state_dtype: torch.dtype | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, Any]:
    """Random arguments of an op as a network gives them, as its function takes them: the state is a
    tensor where it has one part, else a tuple. A step in 64 begins with a reset.

    sizes        letter → size
    variant      without one, the options are the op's own defaults, of the optional inputs only
                 those are given that have to be, and all groups of sizes are there
    state_dtype  of the state, if not that of the rest
    """
    variant = variant or {}
    generator = torch.Generator().manual_seed(seed)
    size_of = {str(n): n for n in range(1, 10)} | dict(sizes)

    def drawn(argument: Argument) -> Tensor:
        shape = [size_of[letter] for letter in argument.letters]
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        if argument.name in op.draw:
            x = op.draw[argument.name](x)
        elif argument.letters[0] == "H" or (argument.state and len(shape) > 3):  # a matrix
            x = x / shape[-1] ** 0.5
        return x.to(device, state_dtype if argument.state and state_dtype else dtype)

    inputs = {
        x.name: drawn(x)
        if not x.optional or variant.get(x.name, _needs(op, x.name, variant))
        else None
        for x in op.form(variant)
        if x.name != "reset"
    }
    state = tuple(inputs.pop(name) for name in op.state)
    reset = torch.rand(sizes["T"], sizes["B"], generator=generator) < 1 / 64
    options = {name: variant[name] for name in op.options if name in variant}
    return {
        **inputs,
        "state": state if len(state) > 1 else state[0],
        "reset": reset.to(device),
        **options,
    }


def flat(values: Any) -> list[Tensor]:
    """Every tensor of a tensor, or of nested tuples and dicts of them."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = tuple(values.values())
    return [x for value in values for x in flat(value)] if isinstance(values, tuple) else []


def leaves_of(inputs: dict[str, Any]) -> list[Tensor]:
    """The float tensors of an op's arguments, which from now on want gradients."""
    return [x.requires_grad_() for x in flat(inputs) if x.is_floating_point()]


def doubled(value: Any) -> Any:
    """Arguments of an op in float64."""
    if isinstance(value, dict):
        return {name: doubled(x) for name, x in value.items()}
    if isinstance(value, tuple):
        return tuple(map(doubled, value))
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def outcome(op: Op, inputs: dict[str, Any], backend: str) -> dict[str, Tensor]:
    """The results of both passes, by name: as in acting; in learning; every gradient of a loss on
    all of them."""
    with torch.no_grad():
        acting = flat(op.run(**inputs, backend=backend))
    leaves = leaves_of(inputs)
    learning = flat(op.run(**inputs, backend=backend))
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(x.shape, generator=generator).to(x) for x in learning]
    gradients = torch.autograd.grad(learning, leaves, cotangents)
    given = [name for name in inputs if name not in ("reset", "state") and name in op.inputs]
    given = [name for name in given if inputs[name] is not None]
    return {
        **{f"{what} without gradients": x for what, x in zip(op.outputs, acting, strict=True)},
        **{what: x.detach() for what, x in zip(op.outputs, learning, strict=True)},
        **{
            f"gradient of {what}": x for what, x in zip([*given, *op.state], gradients, strict=True)
        },
    }


def errors(op: Op, inputs: dict[str, Any], backend: str) -> dict[str, float]:
    """Of every result and gradient, how far a backend is from the reference in float64, relative to
    the largest entry."""
    got, expected = outcome(op, inputs, backend), outcome(op, doubled(inputs), "reference")
    return {
        name: float((got[name].double() - truth).abs().max() / truth.abs().max().clamp_min(1e-6))
        for name, truth in expected.items()
    }
