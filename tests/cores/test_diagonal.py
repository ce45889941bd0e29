"""What is peculiar to cores whose state is a vector of numbers, each with a factor of its own."""

import math

import pytest
import torch

from fwp_rl.config import ConfigError
from fwp_rl.cores import build_core
from fwp_rl.cores.lru import LRUConfig
from fwp_rl.cores.min_gru import MinGRUConfig


def test_the_ring_is_filled_evenly() -> None:
    torch.manual_seed(0)
    ring = LRUConfig(layers=1, state_size=4000, min_radius=0.4, max_radius=0.8, max_phase=1.5)
    named = dict(build_core(ring, 5).named_parameters())
    log_rate, log_angle, log_scale = (
        named[f"blocks.0.memory.log_{name}"].detach() for name in ("rate", "angle", "scale")
    )
    radius, angle = (-log_rate.exp()).exp(), log_angle.exp()
    assert 0.4 <= radius.min() < 0.41
    assert 0.79 < radius.max() <= 0.8 + 1e-6
    inner = (radius < math.sqrt((0.4**2 + 0.8**2) / 2)).float().mean()
    assert abs(inner - 0.5) < 0.04  # of its area: 5 standard errors
    assert angle.max() <= 1.5 + 1e-6
    assert abs((angle < 0.75).float().mean() - 0.5) < 0.04
    torch.testing.assert_close(log_scale.exp().square() + radius.square(), torch.ones(4000))


def test_a_state_that_fades_slowly_is_as_large_as_one_that_does_not() -> None:
    torch.manual_seed(1)
    sizes = []
    for low, high in ((0.0, 0.3), (0.97, 0.99)):
        core = build_core(LRUConfig(layers=1, min_radius=low, max_radius=high), 64)
        never = torch.zeros(600, 8, dtype=torch.bool)
        with torch.no_grad():
            _, (h,) = core(torch.randn(600, 8, 64), core.initial_state(8), never)
        sizes.append(h.square().sum(1).mean().item())  # of |h|²
    assert sizes[0] == pytest.approx(1, rel=0.15)  # that of B x, x normalised
    assert sizes[1] == pytest.approx(1, rel=0.15)


def test_a_gate_that_is_wide_open_or_shut_is_so_exactly() -> None:
    """And gradients stay finite there: to what is kept, to what replaces it."""
    for level, kept in ((-200.0, True), (200.0, False)):
        torch.manual_seed(2)
        core = build_core(MinGRUConfig(layers=1, hidden_size=4, state_size=6), 3)
        with torch.no_grad():
            core.get_parameter("blocks.0.memory.slow_net.bias")[:6] = level
        x, state = torch.randn(5, 2, 3), torch.randn(2, 6, requires_grad=True)
        y, (h,) = core(x, (state,), torch.zeros(5, 2, dtype=torch.bool))
        assert torch.equal(h, state) == kept
        (y.square().sum() + h.sum()).backward()
        assert state.grad is not None
        assert bool(state.grad.any()) == kept
        assert all(p.grad is not None and p.grad.isfinite().all() for p in core.parameters())


def test_a_ring_inside_out_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_radius: got 0\.5, expected at least min_radius"):
        LRUConfig(min_radius=0.9, max_radius=0.5)
    with pytest.raises(ConfigError, match="max_phase: got 7"):
        LRUConfig(max_phase=7.0)
