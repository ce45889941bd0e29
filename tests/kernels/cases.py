"""The ops as the tests of this folder see them: a ``Case`` for each op and set of options.

A law of every op is one test, ``over`` EVERY_OP (each with all its inputs) or EVERY_CASE (each with
every set of options), by itself or on each backend. A new op is one entry in ``OPS`` here, and its
equations in test_by_hand.py.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fwp_rl.kernels import fast_lstm, fast_rnn, fast_weight, recurrent_delta, srwm

Inputs = dict[str, Any]
"""Name of an input, the parts of the state among them, → tensor or None."""


class Op(NamedTuple):
    """What the tests know of an op.

    inputs    in the op's own order: name → sizes, "?" where it may be None; the state's parts are
              those that begin with B, weights that the columns share those with H
    draw      name of an input → what makes it of normal numbers, for those that are not normal
    variants  name → options, or inputs that are left out; the first has all inputs, and the options
              that are the op's defaults
    large     name → a factor, a shift: inputs that overflow an exponential without care
    saved     of K, V and options: how many numbers every step and head keep for the backward pass
    only_read inputs that never reach a later step
    backends  beside the reference
    """

    run: Callable[..., tuple[Tensor, Any]]
    inputs: Mapping[str, str]
    draw: Mapping[str, Callable[[Tensor], Tensor]]
    variants: Mapping[str, Mapping[str, str | None]]
    large: Mapping[str, tuple[float, float]]
    saved: Callable[..., int]
    only_read: tuple[str, ...] = ()
    backends: tuple[str, ...] = ("numba",)


def _unit(x: Tensor) -> Tensor:
    return normalize(x, dim=-1)


def _softmax(x: Tensor) -> Tensor:
    return x.softmax(-1)


def _narrow(x: Tensor) -> Tensor:
    """Any wider, and a recurrence enlarges its rounding errors step by step."""
    return x / x.shape[-1] ** 0.5


OPS = {
    "fast_weight": Op(
        fast_weight,
        {"q": "T B H K", "k": "T B H K", "v": "T B H V", "beta": "?T B H"}
        | {"state": "B H V K", "log_decay": "?T B H", "reset": "?T B"},
        {"q": _unit, "k": _unit, "beta": torch.sigmoid, "log_decay": lambda x: -x.square()},
        {
            "delta-decay": {"rule": "delta"},
            "delta": {"rule": "delta", "log_decay": None},
            "sum-decay": {"rule": "sum"},
            "sum": {"rule": "sum", "log_decay": None},
            "sum-decay-no_beta": {"rule": "sum", "beta": None},
            "sum-no_beta": {"rule": "sum", "beta": None, "log_decay": None},
        },
        large={"log_decay": (1e4, 0)},
        saved=lambda K, V, rule: V if rule == "delta" else 0,  # u
        only_read=("q",),
        backends=("chunkwise", "numba"),
    ),
    "recurrent_delta": Op(
        recurrent_delta,
        {"xq": "T B H K", "xk": "T B H K", "xv": "T B H V", "xb": "T B H"}
        | {"R_q": "H K V", "R_k": "H K V", "R_v": "H V V", "r_b": "H V"}
        | {"W": "B H V K", "y_prev": "B H V", "reset": "?T B"},
        dict.fromkeys(("R_q", "R_k", "R_v", "r_b"), _narrow),
        {"": {}},
        large=dict.fromkeys(("xq", "xk", "xb", "y_prev"), (1e4, 0)),
        saved=lambda K, V: 2 * V + 2 * K + 1,  # s, q, k, beta, u
    ),
    "fast_rnn": Op(
        fast_rnn,
        {"z": "T B H V", "k": "T B H V", "v": "T B H V", "beta": "T B H"}
        | {"R": "B H V V", "y_prev": "B H V", "reset": "?T B"},
        {"k": _softmax, "beta": torch.sigmoid, "R": _narrow},
        {
            "softmax-identity": {"query": "softmax", "output": "identity"},
            "softmax-softmax": {"query": "softmax", "output": "softmax"},
            "identity-identity": {"query": "identity", "output": "identity"},
            "identity-softmax": {"query": "identity", "output": "softmax"},
        },
        large={"z": (1e3, 0), "y_prev": (1, -1e4)},
        saved=lambda K, V, query, output: (
            3 * V if output == "softmax" else 2 * V
        ),  # the query, u; y
    ),
    "fast_lstm": Op(
        fast_lstm,
        {"z": "T B 3 H V", "k": "T B 3 H V", "v": "T B 3 H V", "beta": "T B 3 H"}
        | {"R": "B 3 H V V", "c": "B H V", "h": "B H V", "reset": "?T B"},
        {"k": _softmax, "beta": torch.sigmoid, "R": _narrow},
        {"": {}},
        large={"z": (1e3, 0), "h": (1, -1e4)},
        saved=lambda K, V: 8 * V,  # the query, the cell; of three gates u and the gate
    ),
    "srwm": Op(
        srwm,
        {"x": "T B H K", "W_y": "H V K", "W_q": "H K K", "W_k": "H K K", "W_b": "H 4 K"}
        | {"dW_y": "B H V K", "dW_q": "B H K K", "dW_k": "B H K K", "dW_b": "B H 4 K"}
        | {"reset": "?T B"},
        # wide enough for the queries, keys and rates to be far from uniform
        {"x": lambda x: 2 * x} | dict.fromkeys(("W_q", "W_k", "W_b"), lambda x: 3 * x),
        {"": {}},
        large=dict.fromkeys(("x", "W_q", "W_k", "W_b"), (1e3, 0)),
        saved=lambda K, V: V + 5 * K + 8,  # s, q, k; beta of four rates; e of all rows
    ),
}


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
    """An op with one set of options: its arguments and results by name."""

    def __init__(self, name: str, variant: str) -> None:
        self.op = OPS[name]
        self.name = name
        given = self.op.variants[variant]
        self.id = f"{name}-{variant}" if variant else name
        variants = list(self.op.variants)
        self.main, self.last = variant == variants[0], variant == variants[-1]
        self.options = {n: x for n, x in given.items() if n not in self.op.inputs}
        self.sizes = {
            n: letters.removeprefix("?")
            for n, letters in self.op.inputs.items()
            if given.get(n, letters) is not None
        }
        floats = [n for n in self.sizes if n != "reset"]
        self.steps = [n for n in floats if self.sizes[n].startswith("T")]
        self.shared = [n for n in floats if self.sizes[n].startswith("H")]
        self.state = [n for n in floats if self.sizes[n].startswith("B")]

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
        generator = torch.Generator().manual_seed(seed)
        of_letter = {"T": T, "B": B, "H": H, "K": K, "V": V, "3": 3, "4": 4}
        inputs: Inputs = dict.fromkeys(self.op.inputs)
        for name, letters in self.sizes.items():
            shape = [of_letter[x] for x in letters.split()]
            x = torch.randn(shape, generator=generator, dtype=torch.float64)
            x = self.op.draw[name](x) if name in self.op.draw else x
            inputs[name] = x.to(dtype).requires_grad_()
        inputs["reset"] = RESETS[reset](T, B) if isinstance(reset, str) else reset
        return inputs

    def run(self, inputs: Inputs, backend: str = "auto", **options: str) -> dict[str, Tensor]:
        """y and the parts of the state after."""
        given = {n: x for n, x in inputs.items() if n not in self.state}
        parts = tuple(inputs[n] for n in self.state)
        state = parts if len(parts) > 1 else parts[0]
        y, after = self.op.run(**given, state=state, **(self.options | options), backend=backend)
        after = after if isinstance(after, tuple) else (after,)
        return {"y": y, **dict(zip(self.state, after, strict=True))}

    def outcome(self, inputs: Inputs, backend: str = "auto") -> dict[str, Tensor]:
        """The results, and the gradients of a loss on all of them."""
        results = self.run(inputs, backend)
        gradients = gradients_of(weighted_sum(results), inputs)
        return {n: x.detach() for n, x in results.items()} | {
            f"gradient of {n}": x for n, x in gradients.items()
        }

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
        """What ``torch.ops.fwp_rl`` takes."""
        return *inputs.values(), *self.options.values()


def weighted_sum(results: Mapping[str, Tensor]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.stack(
        [(x * torch.randn(x.shape, generator=generator).double()).sum() for x in results.values()]
    ).sum()


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


EVERY_CASE = [Case(name, variant) for name, op in OPS.items() for variant in op.variants]
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
    """The backends that are held against the reference."""
    return case.op.backends


def every_backend(case: Case) -> tuple[str, ...]:
    return "reference", *case.op.backends
