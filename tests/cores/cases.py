"""Every registered core, small, with the options that change what runs along time."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from fwp_rl.cores import CORES, Core, CoreConfig, build_core
from fwp_rl.types import State

INPUT_SIZE = 11
STEPS, COLUMNS = 9, 4

SMALL: dict[str, Any] = {
    "layers": 2,
    "hidden_size": 12,
    "heads": 3,
    "head_size": 5,
    "feedforward_size": 7,
}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "delta_net": [
        {"feature_map": "favor"},
        {"feature_map": "favor", "favor_epsilon": 0.03},
        {"attention_normaliser": True},
    ],
    "gated_delta_net": [{"allow_negative_eigenvalues": True, "scale_queries": True}],
    "linear_transformer": [{"feature_map": "dpfp2"}, {"attention_normaliser": True}],
    "delta_lstm": [{"version": "v1"}],
    "gtrxl": [{"window": 5}],
    "min_gru": [{"state_size": 5}],
    "srwm": [{"updates": False}],
}
"""Options that change what runs along time; the oracles' tests have all of them."""


def small(name: str, **options: Any) -> CoreConfig:
    """A core's config with few and odd sizes."""
    known = {field.name for field in dataclasses.fields(CORES[name])}
    return CORES[name](**{key: SMALL[key] for key in SMALL.keys() & known} | options)


def cases() -> dict[str, CoreConfig]:
    found = {name: small(name) for name in CORES}
    for name, variants in VARIANTS.items():
        for options in variants:
            words = (f"{key}={value}" for key, value in options.items())
            found["-".join([name, *words])] = small(name, **options)
    return found


CASES = cases()
every_core = pytest.mark.parametrize("config", CASES.values(), ids=CASES)
NO_MEMORY = ("feedforward", "srwm-updates=False")
MEMORIES = {name: config for name, config in CASES.items() if name not in NO_MEMORY}
every_memory = pytest.mark.parametrize("config", MEMORIES.values(), ids=MEMORIES)


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
