from typing import Any

import torch
import torch.nn.functional as F

from fwp_rl.cores import build_core, recording
from fwp_rl.cores.delta_product import DeltaProductConfig
from fwp_rl.cores.gated_delta_net import GatedDeltaNetConfig

SIZES: dict[str, Any] = {"layers": 1, "hidden_size": 8, "heads": 2, "feedforward_size": 8}


def test_one_update_up_to_one_is_a_gated_delta_net() -> None:
    torch.manual_seed(0)
    gated = build_core(GatedDeltaNetConfig(**SIZES), 5)
    product = build_core(
        DeltaProductConfig(**SIZES, updates=1, allow_negative_eigenvalues=False), 5
    )
    product.load_state_dict(gated.state_dict())
    x, reset = torch.randn(6, 3, 5), torch.zeros(6, 3, dtype=torch.bool)
    y, state = product(x, product.initial_state(3), reset)
    expected, expected_state = gated(x, gated.initial_state(3), reset)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(state, expected_state)


def test_rates_and_decay_keep_their_ranges_for_any_input() -> None:
    torch.manual_seed(1)
    core = build_core(DeltaProductConfig(**SIZES), 5)
    x, reset = 1e4 * torch.randn(50, 4, 5), torch.zeros(50, 4, dtype=torch.bool)
    with torch.no_grad(), recording() as records:
        for p in core.parameters():
            p.mul_(30)
        core(x, core.initial_state(4), reset)
    (beta,), (decay,) = records["beta"], records["decay"]
    assert beta.shape == (50, 4, 2, 2)  # two writes a step, in each of two heads
    assert decay.shape == (50, 4, 2)
    assert 0 <= beta.min() < 0.1
    assert 1.9 < beta.max() <= 2
    assert (decay >= 0).all()
    assert (decay <= 1).all()


def test_decay_starts_as_in_the_released_code() -> None:
    torch.manual_seed(2)
    core = build_core(GatedDeltaNetConfig(layers=1, hidden_size=512, heads=512), 5)
    named = dict(core.named_parameters())
    speed = named["blocks.0.memory.decay.log_speed"].exp()
    step = F.softplus(named["blocks.0.memory.decay.bias"])
    assert 0 < speed.min() < 1
    assert 15 < speed.max() <= 16
    assert 0.00099 < step.min() < 0.0015
    assert 0.07 < step.max() < 0.101
    assert 0.3 < (step < 0.01).float().mean() < 0.7  # uniform in its logarithm


def test_the_convolution_remembers_as_many_steps_as_it_is_told() -> None:
    core = build_core(GatedDeltaNetConfig(**SIZES, convolution=3), 5)
    x, reset = torch.randn(7, 1, 5), torch.zeros(7, 1, dtype=torch.bool)
    _, (_, recent) = core(x, core.initial_state(1), reset)
    _, (_, last_two) = core(x[-2:], core.initial_state(1), reset[-2:])
    torch.testing.assert_close(recent, last_two)
    _, (_, last) = core(x[-1:], core.initial_state(1), reset[-1:])
    torch.testing.assert_close(last[:, 0], recent[:, 0])
    assert not last[:, 1].any()
    assert recent[:, 1].any()
