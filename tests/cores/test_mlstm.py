import pytest
import torch
from torch import Tensor

from fwp_rl.cores import Core, build_core
from fwp_rl.cores.mlstm import MLSTMConfig
from fwp_rl.kernels import use_backend
from fwp_rl.types import State

STEPS, COLUMNS, INPUT_SIZE = 5, 3, 4


def problem() -> tuple[Core, Tensor, State, Tensor]:
    """In float64, with gates that vary and a state that an episode has reached."""
    torch.manual_seed(0)
    config = MLSTMConfig(layers=1, hidden_size=8, heads=2, feedforward_size=8)
    core = build_core(config, INPUT_SIZE).double()
    reset = torch.zeros(STEPS, COLUMNS, dtype=torch.bool)
    reset[2, 1] = True
    x = torch.randn(2 * STEPS, COLUMNS, INPUT_SIZE, dtype=torch.float64)
    with torch.no_grad():
        core.get_parameter("blocks.0.memory.gates.weight").normal_()
        fresh = tuple(leaf.double() for leaf in core.initial_state(COLUMNS))
        _, state = core(x[STEPS:], fresh, torch.zeros_like(reset))
    return core, x[:STEPS], state, reset


@pytest.mark.parametrize("shift", [-2.0, 3.0])
def test_the_stabiliser_is_a_choice_of_units(shift: float) -> None:
    core, x, (C, m), reset = problem()
    y, (C_after, m_after) = core(x, (C, m), reset)
    other_y, (other_C, other_m) = core(x, (C * torch.tensor(-shift).exp(), m + shift), reset)
    torch.testing.assert_close(other_y, y)
    scale = (other_m - m_after).exp()[..., None, None]
    torch.testing.assert_close(other_C * scale, C_after)


def test_gradients_with_the_stabiliser_held_fixed_are_those_of_the_whole() -> None:
    core, x, state, reset = problem()
    later = x.flip(0)
    inputs = [leaf.requires_grad_() for leaf in (x, *state)]

    def outputs(x: Tensor, *state: Tensor) -> Tensor:
        y, after = core(x, state, reset)
        # what follows an unroll sees its state in the next one's output alone
        following, _ = core(later, after, torch.zeros_like(reset))
        return torch.cat([y, following])

    with use_backend("reference"):
        assert torch.autograd.gradcheck(outputs, inputs, fast_mode=True)


@pytest.mark.parametrize("level", [-300.0, 300.0])
@pytest.mark.parametrize("gate", [0, 1])
def test_extreme_gates_stay_finite(gate: int, level: float) -> None:
    core, x, _, reset = problem()
    core.float()
    with torch.no_grad():
        core.get_parameter("blocks.0.memory.gates.bias").view(2, -1)[gate] += level
    y, state = core(x.float(), core.initial_state(COLUMNS), reset)
    y.square().sum().backward()
    assert all(leaf.isfinite().all() for leaf in (y, *state))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in core.parameters())
