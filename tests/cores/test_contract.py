"""The recurrent contract of ``fwp_rl/cores/base.py``, held by every registered core."""

from collections.abc import Callable

import pytest
import torch
from cases import CASES, COLUMNS, SMALL, STEPS, every_core, every_memory, make

from fwp_rl.cores import CORES, CoreConfig, build_core, recording
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.testing import CORE_CHECKS, MEMORY_CHECKS
from fwp_rl.testing.cores import same_state

PARAMETERS_AT_257 = {
    "feedforward": 0,
    "lstm": 527_360,
    "linear_transformer": 428_544,
    "delta_net": 429_568,
    "recurrent_delta_net": 454_400,
    "delta_rnn": 496_128,
}
"""Of the authors' agents: default configs, an input of 257."""


@every_core
@pytest.mark.parametrize("check", CORE_CHECKS.values(), ids=CORE_CHECKS)
def test_every_core_keeps_the_contract(
    config: CoreConfig, check: Callable[[CoreConfig], None]
) -> None:
    check(config)


@every_memory
@pytest.mark.parametrize("check", MEMORY_CHECKS.values(), ids=MEMORY_CHECKS)
def test_every_memory_keeps_the_contract(
    config: CoreConfig, check: Callable[[CoreConfig], None]
) -> None:
    check(config)


def test_feedforward_has_no_memory() -> None:
    core, x, state, reset = make(CORES["feedforward"]())
    assert state == ()
    y, after = core(x, state, reset)
    assert torch.equal(y, x)
    assert after == ()


@pytest.mark.parametrize(("name", "count"), PARAMETERS_AT_257.items())
def test_parameter_count_is_fixed(name: str, count: int) -> None:
    core = build_core(CORES[name](), 257)
    assert sum(p.numel() for p in core.parameters()) == count


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
