"""Which cores are settings of which: the same weights give the same outputs and gradients."""

from typing import Any

import pytest
import torch
from cases import make, small, with_resets
from torch import Tensor

from fwp_rl.cores import Core, CoreConfig, build_core, recording
from fwp_rl.types import State

Weights = dict[str, Tensor]


def outcome(core: Core, x: Tensor, state: State, reset: Tensor) -> tuple[list[Tensor], Weights]:
    """Outputs, the state after, the gradients of both to x and the state before; those to the
    weights, by name."""
    leaves = [leaf.clone().requires_grad_() for leaf in (x, *state)]
    y, after = core(leaves[0], tuple(leaves[1:]), reset)
    generator = torch.Generator().manual_seed(5)
    loss: Any = sum(
        (leaf * torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)).sum()
        for leaf in (y, *after)
    )
    names, parameters = zip(*core.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, [*leaves, *parameters])
    given, to_weights = found[: len(leaves)], found[len(leaves) :]
    return [y, *after, *given], dict(zip(names, to_weights, strict=True))


def in_float64(config: CoreConfig) -> tuple[Core, Tensor, State, Tensor]:
    core, x, state, reset = make(config)
    return core.double(), x.double(), tuple(leaf.double() for leaf in state), with_resets(reset)


def built(config: CoreConfig, weights: Weights, input_size: int) -> Core:
    core = build_core(config, input_size).double()
    core.load_state_dict(weights)
    return core


def as_they_are(weights: Weights, heads: int) -> Weights:
    return weights


def rates_apart(weights: Weights, heads: int) -> Weights:
    """delta_net's slow net emits each head's q, k, v and, last, its rate."""
    found = {}
    for name, value in weights.items():
        if name.endswith("slow_net.projection.weight"):
            memory = name.removesuffix("slow_net.projection.weight")
            rows = value.unflatten(0, (heads, -1))
            found[f"{memory}slow_net.weight"] = rows[:, :-1].flatten(0, 1)
            found[f"{memory}rate.weight"] = rows[:, -1]
        else:
            found[name] = value
    return found


DELTA_NET: dict[str, Any] = {
    **{"decay": None, "convolution": 1, "feature_map": "elu1"},
    **{"silu": False, "read_norm": False, "output_gate": False},
}
MEMBERS: dict[str, tuple[str, dict[str, Any], dict[str, Any], Any]] = {
    "delta_net": ("delta_net", {}, DELTA_NET, rates_apart),
    "delta_net up to 2": (
        "delta_net",
        {"allow_negative_eigenvalues": True, "feature_map": "identity"},
        DELTA_NET | {"allow_negative_eigenvalues": True, "feature_map": "identity"},
        rates_apart,
    ),
    "gated_delta_net": ("gated_delta_net", {}, {}, as_they_are),
    "delta_product": (
        "delta_product",
        {},
        {"updates": 2, "allow_negative_eigenvalues": True},
        as_they_are,
    ),
    "delta_product without decay": (
        "delta_product",
        {"updates": 3, "decay": False, "allow_negative_eigenvalues": False},
        {"updates": 3, "decay": None},
        as_they_are,
    ),
}
"""A core and its options, those of the family, and what its weights are called there."""


@pytest.mark.parametrize("horizon", [None, 3])
@pytest.mark.parametrize("member", MEMBERS)
def test_members_are_settings_of_the_family(member: str, horizon: int | None) -> None:
    name, options, settings, renamed = MEMBERS[member]
    core, x, state, reset = in_float64(small(name, **options, gradient_horizon=horizon))
    setting: Any = small("delta_family", **settings, gradient_horizon=horizon)
    heads = setting.heads
    family = built(setting, renamed(core.state_dict(), heads), x.shape[-1])
    expected, to_weights = outcome(core, x, state, reset)
    actual, to_the_same = outcome(family, x, state, reset)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(to_the_same, renamed(to_weights, heads))


def test_gated_delta_net_2_with_equal_gates_is_kimi_delta() -> None:
    core, x, state, reset = in_float64(small("kimi_delta"))
    config: Any = small("gated_delta_net_2")
    weights = {}
    for name, value in core.state_dict().items():
        if name.endswith("rate.weight"):
            memory = name.removesuffix("rate.weight")
            weights[f"{memory}erase_gate.weight"] = value.repeat_interleave(config.key_size, 0)
            weights[f"{memory}write_gate.weight"] = value.repeat_interleave(config.value_size, 0)
        else:
            weights[name] = value
    other = built(config, weights, x.shape[-1])
    expected, actual = outcome(core, x, state, reset)[0], outcome(other, x, state, reset)[0]
    torch.testing.assert_close(actual, expected)


def test_one_decay_for_all_channels_is_scalar() -> None:
    core, x, state, reset = in_float64(small("delta_family"))
    config: Any = small("delta_family", decay="channel")
    weights = {
        name: value.repeat_interleave(config.key_size, 0)
        if name.endswith("decay.projection.weight")
        else value[:, None].expand(-1, config.key_size)
        if name.endswith("decay.bias")
        else value
        for name, value in core.state_dict().items()
    }
    other = built(config, weights, x.shape[-1])
    expected, actual = outcome(core, x, state, reset)[0], outcome(other, x, state, reset)[0]
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", ["delta_family", "kimi_delta", "gla", "rwkv7"])
def test_decays_keep_their_ranges_for_any_input(name: str) -> None:
    torch.manual_seed(1)
    core = build_core(small(name, layers=1), 5)
    x, reset = 1e4 * torch.randn(50, 4, 5), torch.zeros(50, 4, dtype=torch.bool)
    with torch.no_grad(), recording() as records:
        for p in core.parameters():
            p.mul_(30)
        y, state = core(x, core.initial_state(4), reset)
    (decay,) = records["decay"]
    lowest = 0.5452 if name == "rwkv7" else 0.0  # what rwkv7 divides by
    assert decay.min() >= lowest
    assert decay.max() <= 1
    assert y.isfinite().all()
    assert all(leaf.isfinite().all() for leaf in state)
