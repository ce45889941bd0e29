"""The recurrent contract of ``fwp_rl/cores/base.py``, held by every registered core."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from cases import (
    CASES,
    COLUMNS,
    INPUT_SIZE,
    MEMORIES,
    SMALL,
    STEPS,
    every_core,
    every_memory,
    make,
    with_resets,
)
from torch import Tensor

from fwp_rl.cores import CORES, Core, CoreConfig, build_core, recording
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.types import State

PARAMETERS_AT_257 = {
    "feedforward": 0,
    "lstm": 527_360,
    "linear_transformer": 428_544,
    "delta_net": 429_568,
    "recurrent_delta_net": 454_400,
    "delta_rnn": 496_128,
}
"""Of the authors' agents: default configs, an input of 257."""


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)


def same_state(actual: State, expected: State) -> None:
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        close(a, b)


def columns(state: State, which: Tensor | slice) -> State:
    return tuple(leaf[which] for leaf in state)


@every_core
def test_shapes_and_dtypes(config: CoreConfig) -> None:
    core, x, _, reset = make(config)
    state = core.initial_state(COLUMNS)
    y, after = core(x, state, reset)
    assert y.shape == (STEPS, COLUMNS, core.output_size)
    assert y.dtype == torch.float32
    assert [leaf.shape for leaf in after] == [leaf.shape for leaf in state]
    for leaf in (*state, *after):
        assert leaf.shape[0] == COLUMNS
        assert leaf.dtype == torch.float32
    assert all(not leaf.any() for leaf in state)


@every_core
def test_one_call_equals_single_steps(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    reset = with_resets(reset)
    y, after = core(x, state, reset)
    for t in range(STEPS):
        y_t, state = core(x[t : t + 1], state, reset[t : t + 1])
        close(y_t[0], y[t])
    same_state(state, after)


@every_core
def test_reset_is_a_fresh_start(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    reset[4, 1] = True
    y, after = core(x, state, reset)
    fresh, fresh_after = core(x[4:, 1:2], core.initial_state(1), torch.zeros_like(reset[4:, 1:2]))
    close(y[4:, 1], fresh[:, 0])
    same_state(columns(after, slice(1, 2)), fresh_after)


@every_core
def test_nan_before_a_reset_does_not_pass_it(config: CoreConfig) -> None:
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


@every_memory
def test_nan_before_a_reset_does_not_reach_gradients(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    for leaf in state:
        leaf[0] = math.nan
        leaf.requires_grad_()
    reset[0, 0] = True
    core(x, state, reset)[0].square().sum().backward()
    for p in core.parameters():
        assert p.grad is not None
        assert p.grad.isfinite().all()
    for leaf in state:
        assert leaf.grad is not None
        assert not leaf.grad[0].any()


@every_core
def test_columns_are_independent(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    reset = with_resets(reset)
    y, after = core(x, state, reset)
    order = torch.tensor([3, 1, 0])
    picked, picked_after = core(x[:, order], columns(state, order), reset[:, order])
    close(picked, y[:, order])
    same_state(picked_after, columns(after, order))


@every_core
def test_the_state_passed_in_is_not_changed(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    before = tuple(leaf.clone() for leaf in state)
    x.requires_grad_()
    y, after = core(x, state, with_resets(reset))
    y.sum().backward()
    with torch.no_grad():
        for leaf in after:
            leaf.add_(1)
    for leaf, kept in zip(state, before, strict=True):
        assert torch.equal(leaf, kept)


def gradients(core: Core, x: Tensor, state: State, reset: Tensor, t: int) -> list[Tensor]:
    """Of a loss at step t: to x [T, B, D], then to each leaf of the initial state."""
    x = x.clone().requires_grad_()
    state = tuple(leaf.clone().requires_grad_() for leaf in state)
    y, _ = core(x, state, reset)
    found = torch.autograd.grad(y[t].square().sum(), (x, *state), materialize_grads=True)
    assert all(gradient.isfinite().all() for gradient in found)
    return list(found)


def reached(gradient: Tensor) -> list[bool]:
    """Which entries of the first axis got any gradient."""
    return [bool(part.any()) for part in gradient]


@every_memory
def test_gradient_reaches_the_first_step_and_the_state(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    to_x, *to_state = gradients(core, x, state, reset, t=STEPS - 1)
    assert reached(to_x[0]) == [True] * COLUMNS
    assert any(all(reached(leaf)) for leaf in to_state)


@every_memory
def test_no_gradient_passes_a_reset(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    reset[4, 1] = True
    to_x, *to_state = gradients(core, x, state, reset, t=STEPS - 1)
    assert reached(to_x[:, 1]) == [t >= 4 for t in range(STEPS)]
    assert reached(to_x[:, 2]) == [True] * STEPS
    assert all(not leaf[1].any() for leaf in to_state)


def test_feedforward_has_no_memory() -> None:
    core, x, state, reset = make(CORES["feedforward"]())
    assert state == ()
    y, after = core(x, state, reset)
    assert torch.equal(y, x)
    assert after == ()


@pytest.mark.parametrize("name", sorted(CORES.keys() & MEMORIES))
@pytest.mark.parametrize("horizon", [1, 3, STEPS + 1])
def test_gradient_horizon(name: str, horizon: int) -> None:
    config: Any = CASES[name]
    whole, x, state, reset = make(config)
    reset[5, 2] = True
    cut = build_core(dataclasses.replace(config, gradient_horizon=horizon), INPUT_SIZE)
    cut.load_state_dict(whole.state_dict())
    y, after = whole(x, state, reset)
    y_cut, after_cut = cut(x, state, reset)
    close(y_cut, y)
    same_state(after_cut, after)
    for t in (2, STEPS - 1):
        to_x, *to_state = gradients(cut, x, state, reset, t)
        first = t // horizon * horizon
        assert reached(to_x[:, 0]) == [first <= s <= t for s in range(STEPS)]
        assert any(reached(leaf)[0] for leaf in to_state) == (first == 0)


@pytest.mark.parametrize(("name", "count"), PARAMETERS_AT_257.items())
def test_parameter_count_is_fixed(name: str, count: int) -> None:
    core = build_core(CORES[name](), 257)
    assert sum(p.numel() for p in core.parameters()) == count


@every_core
def test_state_dict_round_trip(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    other = build_core(config, INPUT_SIZE)
    other.load_state_dict(core.state_dict())
    assert torch.equal(other(x, state, reset)[0], core(x, state, reset)[0])


@every_core
def test_recording_collects_only_inside(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    with recording() as records:
        y, _ = core(x, state, reset)
    kept = {name: len(values) for name, values in records.items()}
    close(core(x, state, reset)[0], y)
    assert {name: len(values) for name, values in records.items()} == kept
    assert not any(value.requires_grad for values in records.values() for value in values)


@every_memory
def test_what_is_recorded_does_not_depend_on_how_time_is_cut(config: CoreConfig) -> None:
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


VECTORS = {"feedforward", "lstm", "gru", "gtrxl", "lru", "min_gru"}
"""Cores without fast weights."""


@pytest.mark.parametrize("name", sorted(CORES.keys() - VECTORS))
def test_fast_weight_programmers_record_rates_and_weights(name: str) -> None:
    core, x, state, reset = make(CASES[name])
    with recording() as records:
        core(x, state, reset)
    for beta in records.get("beta", ()):  # the sum rule has none
        assert beta.shape[:2] == (STEPS, COLUMNS)
        assert ((beta > 0) & (beta < 2)).all()
    assert all(len(W) == COLUMNS for W in records["fast_weight"])


def test_delta_net_records_its_rates_and_weights() -> None:
    core, x, state, reset = make(DeltaNetConfig(**SMALL))
    with recording() as records:
        _, after = core(x, state, reset)
    assert [beta.shape for beta in records["beta"]] == [(STEPS, COLUMNS, 3)] * 2
    same_state(tuple(records["fast_weight"]), after)


def test_bad_inputs_are_explained() -> None:
    core, x, state, reset = make(DeltaNetConfig(**SMALL))
    with pytest.raises(ValueError, match=r"expected \[T >= 1, B, 11\]"):
        core(x[..., 1:], state, reset)
    with pytest.raises(ValueError, match=r"expected \[T >= 1, B, 11\]"):
        core(x[:0], state, reset[:0])
    with pytest.raises(ValueError, match="expected bool"):
        core(x, state, reset.float())
