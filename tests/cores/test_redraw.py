"""favor's projection, drawn anew in each call that takes gradients."""

import itertools
from typing import Any

import pytest
import torch
from cases import COLUMNS, make, small, with_resets
from torch import Tensor

from fwp_rl.config import ConfigError
from fwp_rl.cores import CORES, Core, build_core
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.fast_weight_block import FastWeightConfig
from fwp_rl.runs.seeding import seed_everything
from fwp_rl.types import State

FAVOR: dict[str, Any] = {"feature_map": "favor", "redraw_projection": True}
NAMES = [name for name, cls in CORES.items() if issubclass(cls, FastWeightConfig)]


def projections(core: Core) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in core.named_buffers() if name.endswith("projection")}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[bool]:
    return [torch.equal(a[name], b[name]) for name in a]


def test_runs_of_different_seeds_have_different_projections() -> None:
    found = []
    for seed in (1, 1, 2):
        seed_everything(seed)
        found.append(projections(build_core(DeltaNetConfig(feature_map="favor"), 4)))
    first, again, other = found
    assert same(first, again) == [True, True]
    assert same(first, other) == [False, False]


@pytest.mark.parametrize("name", NAMES)
def test_each_call_with_gradients_draws_once(name: str) -> None:
    core, x, state, reset = make(small(name, **FAVOR, gradient_horizon=4))
    reset = with_resets(reset)
    before = projections(core)
    y, _ = core(x, state, reset)
    drawn = projections(core)
    assert not any(same(before, drawn))
    # one draw for the whole call: a core that keeps what was drawn says the same
    fixed = build_core(small(name, feature_map="favor", gradient_horizon=4), x.shape[-1])
    fixed.load_state_dict(core.state_dict())
    torch.testing.assert_close(y, fixed(x, state, reset)[0])
    # and its gradients are those of that draw, although another has followed
    core(x, state, reset)
    assert not any(same(drawn, projections(core)))
    gradients = torch.autograd.grad(y.square().sum(), list(core.parameters()))
    expected = torch.autograd.grad(
        fixed(x, state, reset)[0].square().sum(), list(fixed.parameters())
    )
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("training", [True, False])
def test_acting_and_evaluation_keep_the_last_draw(training: bool) -> None:
    core, x, state, reset = make(small("delta_net", **FAVOR))
    core.train(training)
    before = projections(core)
    with torch.set_grad_enabled(not training):
        y, _ = core(x, state, reset)
        first, after = core(x[:4], state, reset[:4])
        rest, _ = core(x[4:], after, reset[4:])
    torch.testing.assert_close(torch.cat([first, rest]), y)
    assert all(same(before, projections(core)))


def inputs(core: Core) -> tuple[Tensor, State, Tensor]:
    reset = torch.zeros(1, COLUMNS, dtype=torch.bool)
    return torch.randn(1, COLUMNS, core.input_size), core.initial_state(COLUMNS), reset


def test_an_exported_core_draws_nothing() -> None:
    core = make(small("delta_net", **FAVOR))[0]
    with pytest.raises(RuntimeError, match=r"export it under torch\.no_grad"):
        torch.export.export(core, inputs(core))
    with torch.no_grad():
        program = torch.export.export(core, inputs(core))
        given = inputs(core)
        torch.testing.assert_close(program.module()(*given), core(*given))


def test_a_compiled_core_draws_at_each_call() -> None:
    core, x, state, reset = make(small("delta_net", **FAVOR))
    torch.compiler.reset()
    compiled = torch.compile(core, fullgraph=True, backend="aot_eager")
    seen = [projections(core)]
    for _ in range(3):
        y, _ = compiled(x, state, reset)
        seen.append(projections(core))
    assert not any(any(same(a, b)) for a, b in itertools.pairwise(seen))
    with torch.no_grad():
        torch.testing.assert_close(core(x, state, reset)[0], y)


def test_options_of_favor_are_refused_elsewhere() -> None:
    with pytest.raises(ConfigError, match="redraw_projection: got True with feature_map elu1"):
        DeltaNetConfig(redraw_projection=True)
    with pytest.raises(ConfigError, match=r"favor_epsilon: got 0\.1 with feature_map softmax"):
        DeltaNetConfig(favor_epsilon=0.1, feature_map="softmax")
