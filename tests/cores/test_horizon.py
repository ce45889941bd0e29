"""A gradient horizon: the gradients of every core are those of a loop that detaches the state."""

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
from cases import INPUT_SIZE, MEMORIES, STEPS, every_memory, make, with_resets
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fwp_rl.cores import Core, CoreConfig, build_core
from fwp_rl.kernels import use_backend
from fwp_rl.types import State

HORIZONS = [1, 3, 7, STEPS - 1]


def with_horizon(config: Any, core: Core, horizon: int) -> Core:
    """A core with the same weights."""
    cut = build_core(dataclasses.replace(config, gradient_horizon=horizon), INPUT_SIZE)
    cut.load_state_dict(core.state_dict())
    return cut.to(next(core.parameters()).dtype)


def by_pieces(
    core: Core, x: Tensor, state: State, reset: Tensor, horizon: int
) -> tuple[Tensor, State]:
    """An exact core over so many steps at a time; in between, the state is detached."""
    ys = []
    for t in range(len(x)):
        if t > 0 and t % horizon == 0:
            state = tuple(leaf.detach() for leaf in state)
        y, state = core(x[t : t + 1], state, reset[t : t + 1])
        ys.append(y)
    return torch.cat(ys), state


def outcome(call: Any, core: Core, x: Tensor, state: State, reset: Tensor) -> list[Tensor]:
    """Outputs, the state after, and the gradients of a loss on both: to x, to the initial state, to
    every parameter."""
    leaves = [leaf.clone().requires_grad_() for leaf in (x, *state)]
    y, after = call(leaves[0], tuple(leaves[1:]), reset)
    generator = torch.Generator().manual_seed(5)
    loss: Any = sum(
        (leaf * torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)).sum()
        for leaf in (y, *after)
        if leaf.requires_grad
    )
    wanted = [*leaves, *core.parameters()]
    found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    return [y, *after, *found]


def in_float64(config: CoreConfig) -> tuple[Core, Tensor, State, Tensor]:
    core, x, state, reset = make(config)
    state = tuple(leaf.double() for leaf in state)
    return core.double(), x.double(), state, with_resets(reset)


@pytest.mark.parametrize(
    ("horizon", "backend"), [*((n, "auto") for n in HORIZONS), (3, "reference")]
)
@every_memory
def test_gradients_are_those_of_a_loop_that_detaches(
    config: CoreConfig, horizon: int, backend: str
) -> None:
    core, *given = in_float64(config)
    cut = with_horizon(config, core, horizon)
    with use_backend(backend):
        got = outcome(cut, cut, *given)
    expected = outcome(lambda *x: by_pieces(core, *x, horizon), core, *given)
    for actual, truth in zip(got, expected, strict=True):
        torch.testing.assert_close(actual, truth, rtol=1e-8, atol=1e-9)


class Calls(TorchDispatchMode):
    """Counts the operations of torch, those of autograd among them."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count[str(func)] += 1
        return func(*args, **kwargs or {})


def in_pieces(name: str) -> bool:
    return name.split("-")[0] in ("lstm", "gru", "gtrxl")


@pytest.mark.parametrize("name", MEMORIES)
def test_a_core_says_how_it_is_cut(name: str) -> None:
    assert build_core(MEMORIES[name], INPUT_SIZE).cuts_gradients != in_pieces(name)


@pytest.mark.parametrize("name", [name for name in MEMORIES if not in_pieces(name)])
def test_a_horizon_takes_no_more_calls(name: str) -> None:
    """Of the ops and the matrix products: one for all steps, back in time too."""
    core, *given = make(MEMORIES[name])
    counts = []
    for each in (core, with_horizon(MEMORIES[name], core, 1)):
        with Calls() as calls:
            outcome(each, each, *given)
        counts.append({op: n for op, n in calls.count.items() if "fwp_rl" in op or ".mm" in op})
    assert counts[0] == counts[1]
    assert any("fwp_rl" in op and "backward" in op for op in counts[0])


@every_memory
def test_without_gradients_a_horizon_costs_nothing(config: CoreConfig) -> None:
    core, *given = make(config)
    counts = []
    for each in (core, with_horizon(config, core, 1)):
        with torch.no_grad(), Calls() as calls:
            each(*given)
        counts.append(calls.count)
    assert counts[0] == counts[1]
