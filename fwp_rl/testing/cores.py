"""The recurrent contract of ``fwp_rl/cores/base.py``, check by check.

Each check builds the core anew from its config, with random weights and inputs of a fixed seed.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from fwp_rl.cores import Core, CoreConfig, build_core, recording
from fwp_rl.testing.expect import expect, named_check
from fwp_rl.types import State

__all__ = [
    "COLUMNS",
    "CORE_CHECKS",
    "INPUT_SIZE",
    "MEMORY_CHECKS",
    "STEPS",
    "check_core",
    "close",
    "make",
    "same_state",
    "with_resets",
]

INPUT_SIZE = 11
STEPS, COLUMNS = 9, 4
"""T and B of the inputs."""


def check_core(config: CoreConfig, *, memory: bool | None = None) -> None:
    """All checks. AssertionError, which begins with the name of the check, where one does not hold.

    memory  whether what the core is shown changes what it answers later; None: where it has a state
    """
    if memory is None:
        memory = bool(build_core(config, INPUT_SIZE).initial_state(1))
    for name, check in (CORE_CHECKS | MEMORY_CHECKS if memory else CORE_CHECKS).items():
        with named_check(name):
            check(config)


def make(config: CoreConfig) -> tuple[Core, Tensor, State, Tensor]:
    """A core, T steps of input, a state that it is in after others, and no resets."""
    torch.manual_seed(3)
    core = build_core(config, INPUT_SIZE)
    earlier, x = torch.randn(2, STEPS, COLUMNS, INPUT_SIZE)
    reset = torch.zeros(STEPS, COLUMNS, dtype=torch.bool)
    with torch.no_grad():
        _, state = core(earlier, core.initial_state(COLUMNS), reset)
    return core, x, state, reset


def with_resets(reset: Tensor) -> Tensor:
    """Resets at the first, a middle and the last step, of one column twice, of another never."""
    reset = reset.clone()
    reset[0, 0] = reset[4, 1] = reset[4, 2] = reset[6, 1] = reset[-1, 2] = True
    return reset


def close(actual: Tensor, expected: Tensor) -> None:
    """Equal but for rounding in float32."""
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)


def same_state(actual: State, expected: State) -> None:
    """The same number of leaves, equal but for rounding."""
    expect(len(actual) == len(expected), f"{len(actual)} leaves, expected {len(expected)}")
    for a, b in zip(actual, expected, strict=True):
        close(a, b)


def _columns(state: State, which: Tensor | slice) -> State:
    return tuple(leaf[which] for leaf in state)


def shapes_and_dtypes(config: CoreConfig) -> None:
    """Outputs [T, B, output_size], leaves [B, ...], all float32; an episode starts from zeros."""
    core, x, _, reset = make(config)
    state = core.initial_state(COLUMNS)
    y, after = core(x, state, reset)
    wanted = (STEPS, COLUMNS, core.output_size)
    expect(y.shape == wanted, f"the output has shape {tuple(y.shape)}, expected {wanted}")
    expect(y.dtype == torch.float32, f"the output is {y.dtype}, expected float32")
    shapes = [tuple(leaf.shape) for leaf in after], [tuple(leaf.shape) for leaf in state]
    expect(shapes[0] == shapes[1], f"the state after has leaves {shapes[0]}, before {shapes[1]}")
    for leaf in (*state, *after):
        expect(leaf.shape[:1] == (COLUMNS,), f"a leaf has shape {tuple(leaf.shape)}, not [B, ...]")
        expect(leaf.dtype == torch.float32, f"a leaf is {leaf.dtype}, expected float32")
    expect(not any(leaf.any() for leaf in state), "the initial state is not zero")


def one_call_equals_single_steps(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    reset = with_resets(reset)
    y, after = core(x, state, reset)
    for t in range(STEPS):
        y_t, state = core(x[t : t + 1], state, reset[t : t + 1])
        close(y_t[0], y[t])
    same_state(state, after)


def reset_is_a_fresh_start(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    reset[4, 1] = True
    y, after = core(x, state, reset)
    fresh, fresh_after = core(x[4:, 1:2], core.initial_state(1), torch.zeros_like(reset[4:, 1:2]))
    close(y[4:, 1], fresh[:, 0])
    same_state(_columns(after, slice(1, 2)), fresh_after)


def nan_before_a_reset_does_not_pass_it(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    reset = with_resets(reset)
    y, after = core(x, state, reset)
    for leaf in state:
        leaf[0] = math.nan
    x[:4, 1] = math.nan
    poisoned, poisoned_after = core(x, state, reset)
    close(poisoned[4:], y[4:])
    close(poisoned[:, [0, 2, 3]], y[:, [0, 2, 3]])
    same_state(poisoned_after, after)


def columns_are_independent(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    reset = with_resets(reset)
    y, after = core(x, state, reset)
    order = torch.tensor([3, 1, 0])
    picked, picked_after = core(x[:, order], _columns(state, order), reset[:, order])
    close(picked, y[:, order])
    same_state(picked_after, _columns(after, order))


def the_state_passed_in_is_not_changed(config: CoreConfig) -> None:
    """Nor by who changes the state that was given back."""
    core, x, state, reset = make(config)
    before = tuple(leaf.clone() for leaf in state)
    x.requires_grad_()
    y, after = core(x, state, with_resets(reset))
    y.sum().backward()
    with torch.no_grad():
        for leaf in after:
            leaf.add_(1)
    for leaf, kept in zip(state, before, strict=True):
        expect(torch.equal(leaf, kept), "a leaf of the state passed in has changed")


def state_dict_round_trip(config: CoreConfig) -> None:
    """All that the answer depends on is saved."""
    core, x, state, reset = make(config)
    other = build_core(config, INPUT_SIZE)
    other.load_state_dict(core.state_dict())
    same = torch.equal(other(x, state, reset)[0], core(x, state, reset)[0])
    expect(same, "another core with the same state_dict gives another answer")


def recording_collects_only_inside(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    with recording() as records:
        y, _ = core(x, state, reset)
    kept = {name: len(values) for name, values in records.items()}
    close(core(x, state, reset)[0], y)
    now = {name: len(values) for name, values in records.items()}
    expect(now == kept, f"outside of recording() it has reported {now}, before {kept}")
    tracked = [name for name, values in records.items() if any(v.requires_grad for v in values)]
    expect(not tracked, f"what it reports is part of the graph: {tracked}")


def nan_before_a_reset_does_not_reach_gradients(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    for leaf in state:
        leaf[0] = math.nan
        leaf.requires_grad_()
    reset[0, 0] = True
    core(x, state, reset)[0].square().sum().backward()
    for name, p in core.named_parameters():
        expect(p.grad is not None, f"no gradient reaches the parameter {name}")
        expect(p.grad is None or bool(p.grad.isfinite().all()), f"the gradient of {name} has NaN")
    for leaf in state:
        expect(leaf.grad is not None, "no gradient reaches the initial state")
        expect(leaf.grad is None or not leaf.grad[0].any(), "gradient passes a reset at t = 0")


def gradients(core: Core, x: Tensor, state: State, reset: Tensor, t: int) -> list[Tensor]:
    """Of a loss at step t: to x [T, B, D], then to each leaf of the initial state."""
    x = x.clone().requires_grad_()
    state = tuple(leaf.clone().requires_grad_() for leaf in state)
    y, _ = core(x, state, reset)
    found = torch.autograd.grad(y[t].square().sum(), (x, *state), materialize_grads=True)
    expect(all(bool(g.isfinite().all()) for g in found), "a gradient is not finite")
    return list(found)


def _reached(gradient: Tensor) -> list[bool]:
    """Which entries of the first axis got any gradient."""
    return [bool(part.any()) for part in gradient]


def gradient_reaches_the_first_step_and_the_state(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    to_x, *to_state = gradients(core, x, state, reset, t=STEPS - 1)
    expect(all(_reached(to_x[0])), "no gradient reaches the first step")
    expect(any(all(_reached(leaf)) for leaf in to_state), "no gradient reaches the initial state")


def no_gradient_passes_a_reset(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    reset[4, 1] = True
    to_x, *to_state = gradients(core, x, state, reset, t=STEPS - 1)
    _expect_reach(to_x[:, 1], [t >= 4 for t in range(STEPS)])
    _expect_reach(to_x[:, 2], [True] * STEPS)
    expect(not any(leaf[1].any() for leaf in to_state), "gradient reaches the state past a reset")


def gradient_horizon(config: CoreConfig, horizon: int) -> None:
    """The values stay, the gradient ends before steps n, 2n, ...; nothing to check where the config
    has no field ``gradient_horizon``."""
    fields = {field.name for field in dataclasses.fields(config)}
    if "gradient_horizon" not in fields:
        return
    whole, x, state, reset = make(config)
    reset[5, 2] = True
    with_horizon: Any = {"gradient_horizon": horizon}
    cut = build_core(dataclasses.replace(config, **with_horizon), INPUT_SIZE)
    cut.load_state_dict(whole.state_dict())
    y, after = whole(x, state, reset)
    y_cut, after_cut = cut(x, state, reset)
    close(y_cut, y)
    same_state(after_cut, after)
    for t in (2, STEPS - 1):
        to_x, *to_state = gradients(cut, x, state, reset, t)
        first = t // horizon * horizon
        _expect_reach(to_x[:, 0], [first <= s <= t for s in range(STEPS)])
        reached = any(_reached(leaf)[0] for leaf in to_state)
        expect(reached == (first == 0), f"from step {t} gradient to the initial state: {reached}")


def _expect_reach(gradient: Tensor, wanted: list[bool]) -> None:
    reached = _reached(gradient)
    expect(reached == wanted, f"gradient reaches the steps {reached}, expected {wanted}")


def what_is_recorded_does_not_depend_on_how_time_is_cut(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    reset = with_resets(reset)
    with recording() as whole:
        core(x, state, reset)
    steps: list[dict[str, list[Tensor]]] = []
    for t in range(STEPS):
        with recording() as records:
            _, state = core(x[t : t + 1], state, reset[t : t + 1])
        steps.append(records)
    for name, layers in whole.items():
        for layer, value in enumerate(layers):
            parts = [records[name][layer] for records in steps]
            close(parts[-1] if name.endswith("fast_weight") else torch.cat(parts), value)


def _by_name(*checks: Callable[[CoreConfig], None]) -> dict[str, Callable[[CoreConfig], None]]:
    return {check.__name__: check for check in checks}


CORE_CHECKS: Final[dict[str, Callable[[CoreConfig], None]]] = _by_name(
    shapes_and_dtypes,
    one_call_equals_single_steps,
    reset_is_a_fresh_start,
    nan_before_a_reset_does_not_pass_it,
    columns_are_independent,
    the_state_passed_in_is_not_changed,
    state_dict_round_trip,
    recording_collects_only_inside,
)
"""What every core keeps."""

MEMORY_CHECKS: Final[dict[str, Callable[[CoreConfig], None]]] = _by_name(
    nan_before_a_reset_does_not_reach_gradients,
    gradient_reaches_the_first_step_and_the_state,
    no_gradient_passes_a_reset,
    what_is_recorded_does_not_depend_on_how_time_is_cut,
) | {
    f"gradient_horizon_{horizon}": partial(gradient_horizon, horizon=horizon)
    for horizon in (1, 3, STEPS + 1)
}
"""What a core with memory keeps as well."""
