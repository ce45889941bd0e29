"""Every registered core, small, with the options that change what runs along time."""

import dataclasses
from typing import Any

import pytest

from fwp_rl.cores import CORES, CoreConfig
from fwp_rl.testing.cores import COLUMNS, INPUT_SIZE, STEPS, make, with_resets

__all__ = [
    "CASES",
    "COLUMNS",
    "INPUT_SIZE",
    "MEMORIES",
    "SMALL",
    "STEPS",
    "every_core",
    "every_memory",
    "make",
    "small",
    "with_resets",
]

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
    "delta_family": [
        {"updates": 2, "decay": "channel", "erase": "gated"},
        {"decay": None, "convolution": 1, "silu": False, "read_norm": False},
    ],
    "gla": [{"decay": "scalar", "shared_keys": True}, {"decay": "fixed"}],
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
