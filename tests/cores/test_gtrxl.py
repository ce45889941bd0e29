import pytest
import torch

from fwp_rl.cores import build_core, recording
from fwp_rl.cores.gtrxl import GTrXLConfig


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("window", [1, 3])
def test_each_layer_sees_the_window_and_nothing_before_it(layers: int, window: int) -> None:
    torch.manual_seed(0)
    config = GTrXLConfig(layers=layers, hidden_size=8, heads=2, feedforward_size=8, window=window)
    core = build_core(config, 4)
    x, reset = torch.randn(9, 2, 4, requires_grad=True), torch.zeros(9, 2, dtype=torch.bool)
    y, _ = core(x, core.initial_state(2), reset)
    (gradient,) = torch.autograd.grad(y[-1].square().sum(), x)
    reached = [bool(part.any()) for part in gradient]
    assert reached == [8 - s <= layers * window for s in range(9)]


def test_what_an_empty_slot_holds_is_not_seen() -> None:
    torch.manual_seed(1)
    core = build_core(GTrXLConfig(layers=1, hidden_size=8, heads=2, window=5), 4)
    x, reset = torch.randn(3, 2, 4), torch.zeros(3, 2, dtype=torch.bool)
    y, after = core(x, core.initial_state(2), reset)
    (slots,) = core.initial_state(2)
    slots[..., :-1] = 100 * torch.randn_like(slots[..., :-1])
    other_y, other_after = core(x, (slots,), reset)
    torch.testing.assert_close(other_y, y)
    torch.testing.assert_close(other_after, after)
    assert after[0][..., -1].tolist() == [[0, 0, 1, 1, 1]] * 2


def test_steps_in_the_window_are_told_apart_by_how_long_ago_they_were() -> None:
    torch.manual_seed(2)
    core = build_core(GTrXLConfig(layers=1, hidden_size=8, heads=2, window=5), 4)
    x, reset = torch.randn(4, 1, 4), torch.zeros(4, 1, dtype=torch.bool)
    with torch.no_grad():
        y, _ = core(x, core.initial_state(1), reset)
        swapped, _ = core(x[[1, 0, 2, 3]], core.initial_state(1), reset)
    assert not torch.allclose(y[-1], swapped[-1], atol=1e-6)


def test_recorded_attention_is_a_distribution_over_the_episode() -> None:
    torch.manual_seed(3)
    core = build_core(GTrXLConfig(layers=1, hidden_size=8, heads=2, window=3), 4)
    reset = torch.zeros(6, 1, dtype=torch.bool)
    reset[4] = True
    with recording() as records:
        core(torch.randn(6, 1, 4), core.initial_state(1), reset)
    (attention,) = records["attention"]
    assert attention.shape == (6, 1, 2, 4)
    torch.testing.assert_close(attention.sum(-1), torch.ones(6, 1, 2))
    ago = [[3 - i for i in range(4) if attention[t, 0, 0, i] > 0] for t in range(6)]
    assert ago == [[0], [1, 0], [2, 1, 0], [3, 2, 1, 0], [0], [1, 0]]
