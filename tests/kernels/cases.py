"""The ops as the tests of this folder see them: a ``Case`` for each op and variant.

A law of every op is one test, ``over`` EVERY_OP (each with its default options and all inputs) or
EVERY_CASE, by itself or on each backend. A new op comes here by its description; its equations
are written into test_by_hand.py, what overflows in it into test_every_op.py, what it keeps into
test_numba.py.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fwp_rl.kernels import OPS
from fwp_rl.kernels.op import Op
from fwp_rl.kernels.samples import make_inputs, variants

Inputs = dict[str, Any]
"""Name of an input, the parts of the state among them, → tensor or None."""


def _at(t: int, T: int, B: int) -> Tensor:
    """The columns differ."""
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[t, ::2] = True
    return reset


def _at_random(T: int, B: int) -> Tensor:
    return torch.rand(T, B, generator=torch.Generator().manual_seed(T)) < 0.15


RESETS: Mapping[str, Callable[[int, int], Tensor | None]] = {
    "never": lambda T, B: None,
    "first": lambda T, B: _at(0, T, B),
    "middle": lambda T, B: _at(T // 2, T, B),
    "last": lambda T, B: _at(T - 1, T, B),
    "every": lambda T, B: torch.ones(T, B, dtype=torch.bool),
    "random": _at_random,
}


class Case:
    """An op in one of its variants: its arguments and results by name.

    sizes   name of an input that the variant has → its sizes, "TBHK"
    steps   the inputs with time; shared: the weights of all columns; state: its parts
    """

    def __init__(self, op: Op, variant: str) -> None:
        self.op, self.name, self.function = op, op.name, op.run
        every = variants(op)
        self.variant = every[variant]
        words = [x.replace(" ", "") for x in variant.replace("without ", "no_").split(", ")]
        self.id = "-".join([op.name, *words]).strip("-")
        self.options = {name: self.variant[name] for name in op.options}
        form = op.form(self.variant)
        self.sizes = {x.name: x.letters for x in form if self.variant.get(x.name, True)}
        floats = [n for n in self.sizes if n != "reset"]
        self.steps = [n for n in floats if self.sizes[n].startswith("T")]
        self.shared = [n for n in floats if self.sizes[n][0] not in "TB"]
        self.state = list(op.state)
        defaults = inspect.signature(op.run).parameters
        usual = all(defaults[name].default == x for name, x in self.options.items())
        self.main = usual and False not in self.variant.values()
        self.last = variant == list(every)[-1]

    def inputs(
        self,
        T: int = 5,
        B: int = 3,
        H: int = 2,
        *,
        K: int = 5,
        V: int = 7,
        reset: str | Tensor = "never",
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
    ) -> Inputs:
        """Random arguments, leaves with gradients; reset is a name in RESETS, or the flags."""
        sizes = {"T": T, "B": B, "H": H, "K": K, "V": V}
        made = make_inputs(self.op, sizes, self.variant, dtype=dtype, seed=seed)
        made |= self._parts(made["state"])
        made["reset"] = RESETS[reset](T, B) if isinstance(reset, str) else reset
        for name in self.sizes:
            if name != "reset":
                made[name].requires_grad_()
        return {name: made[name] for name in self.op.inputs}

    def _parts(self, state: Any) -> dict[str, Tensor]:
        parts = state if isinstance(state, tuple) else (state,)
        return dict(zip(self.state, parts, strict=True))

    def run(
        self, inputs: Inputs, backend: str = "auto", *, horizon: int | None = None
    ) -> dict[str, Tensor]:
        """y and the parts of the state after."""
        given = {n: x for n, x in inputs.items() if n not in self.state}
        parts = tuple(inputs[n] for n in self.state)
        state = parts if len(parts) > 1 else parts[0]
        y, after = self.function(
            **given, state=state, **self.options, gradient_horizon=horizon, backend=backend
        )
        return {"y": y, **self._parts(after)}

    def outcome(
        self, inputs: Inputs, backend: str = "auto", *, horizon: int | None = None
    ) -> dict[str, Tensor]:
        """The results, and the gradients of a loss on all of them."""
        return with_gradients(self.run(inputs, backend, horizon=horizon), inputs)

    def over(
        self, values: Inputs, *, steps: slice = slice(None), columns: slice = slice(None)
    ) -> Inputs:
        """Some steps of some columns, of inputs or of results."""

        def part(name: str, x: Any) -> Any:
            if x is None or name in self.shared:
                return x
            return x[columns] if name in self.state else x[steps, columns]

        return {name: part(name, x) for name, x in values.items()}

    def arguments(self, inputs: Inputs) -> tuple[Any, ...]:
        """What ``torch.ops.fwp_rl`` takes, but for the horizon."""
        return *inputs.values(), *self.options.values()


def weighted_sum(results: Mapping[str, Tensor]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.stack(
        [(x * torch.randn(x.shape, generator=generator).double()).sum() for x in results.values()]
    ).sum()


def with_gradients(results: Mapping[str, Tensor], inputs: Inputs) -> dict[str, Tensor]:
    """The results, and the gradients of a loss on all of them."""
    gradients = gradients_of(weighted_sum(results), inputs)
    return {n: x.detach() for n, x in results.items()} | {
        f"gradient of {n}": x for n, x in gradients.items()
    }


def gradients_of(loss: Tensor, inputs: Inputs) -> dict[str, Tensor]:
    """By the name of the input; zeros where the loss does not depend on it."""
    leaves = {n: x for n, x in inputs.items() if x is not None and x.requires_grad}
    found = torch.autograd.grad(loss, leaves.values(), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def floats(inputs: Inputs) -> Inputs:
    """The inputs that have a gradient."""
    return {n: x for n, x in inputs.items() if x is not None and x.is_floating_point()}


def changed(
    inputs: Inputs, change: Callable[[Tensor], Tensor], names: Iterable[str] = ()
) -> Inputs:
    """The inputs (those named, else all) changed, and leaves again."""
    names = list(names) or [n for n, x in inputs.items() if x is not None]
    return inputs | {
        n: change(inputs[n].detach()).requires_grad_(inputs[n].requires_grad) for n in names
    }


def in_float64(inputs: Inputs) -> Inputs:
    """The same numbers in float64."""
    return changed(inputs, torch.Tensor.double, floats(inputs))


def assert_close(
    got: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float
) -> None:
    """Every tensor agrees to ``tolerance`` relative to the largest entry of the expected one."""
    assert got.keys() == expected.keys()
    for name, truth in expected.items():
        assert got[name].shape == truth.shape, f"{name}: {got[name].shape}, expected {truth.shape}"
        error = (got[name].double() - truth).abs().max()
        assert error <= tolerance * truth.abs().max().clamp_min(1e-6), f"{name}: off by {error:.1e}"


EVERY_CASE = [Case(op, variant) for op in OPS.values() for variant in variants(op)]
EVERY_OP = [case for case in EVERY_CASE if case.main]


def over(
    cases: Iterable[Case], backends: Callable[[Case], Iterable[str]] | None = None
) -> pytest.MarkDecorator:
    """Run a test for each ``case``, on each ``backend`` if it asks for one."""
    if backends is None:
        return pytest.mark.parametrize("case", cases, ids=lambda case: case.id)
    pairs = [(case, backend) for case in cases for backend in backends(case)]
    ids = [f"{case.id}-{backend}" for case, backend in pairs]
    return pytest.mark.parametrize(("case", "backend"), pairs, ids=ids)


def fast(case: Case) -> tuple[str, ...]:
    """The backends that are held against the reference, where there is no GPU."""
    return tuple(name for name in case.op.backends if name not in ("reference", "cuda"))


def every_backend(case: Case) -> tuple[str, ...]:
    return "reference", *fast(case)
