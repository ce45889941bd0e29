import pytest
import torch
from torch import Tensor, nn

from fwp_rl.cores import Core, build_core
from fwp_rl.cores.rnn import GRUConfig, LSTMConfig
from fwp_rl.types import State

STEPS, COLUMNS, INPUT_SIZE, HIDDEN = 11, 3, 5, 7


def cell_loop(core: Core, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
    """Step by step with torch's cells, the state multiplied by a mask where it resets."""
    cls = nn.LSTMCell if len(state) == 2 else nn.GRUCell
    cell = cls(INPUT_SIZE, HIDDEN)
    weights = core.state_dict().values()  # input, hidden, then their biases, as in the cells
    cell.load_state_dict(dict(zip(cell.state_dict(), weights, strict=True)))
    outputs = []
    for x_t, reset_t in zip(x, reset, strict=True):
        state = tuple(leaf * ~reset_t[:, None] for leaf in state)
        after = cell(x_t, state if len(state) == 2 else state[0])
        state = after if len(state) == 2 else (after,)
        outputs.append(state[0])
    return torch.stack(outputs), state


@pytest.mark.parametrize("config", [LSTMConfig, GRUConfig])
@pytest.mark.parametrize("resets", [[], [(0, 0)], [(0, 1), (4, 0), (4, 2), (5, 0), (10, 1)]])
def test_equals_a_loop_over_cells(
    config: type[LSTMConfig | GRUConfig], resets: list[tuple[int, int]]
) -> None:
    torch.manual_seed(0)
    core = build_core(config(hidden_size=HIDDEN), INPUT_SIZE)
    x = torch.randn(STEPS, COLUMNS, INPUT_SIZE)
    state = tuple(torch.randn_like(leaf) for leaf in core.initial_state(COLUMNS))
    reset = torch.zeros(STEPS, COLUMNS, dtype=torch.bool)
    for t, b in resets:
        reset[t, b] = True
    y, after = core(x, state, reset)
    expected_y, expected = cell_loop(core, x, state, reset)
    torch.testing.assert_close(y, expected_y)
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize(("config", "leaves"), [(LSTMConfig, 2), (GRUConfig, 1)])
def test_time_is_cut_only_where_a_column_resets(
    config: type[LSTMConfig | GRUConfig], leaves: int
) -> None:
    core = build_core(config(hidden_size=HIDDEN), INPUT_SIZE)
    pieces: list[int] = []
    rnn = next(core.children())
    rnn.register_forward_hook(lambda module, inputs, output: pieces.append(len(inputs[0])))
    reset = torch.zeros(STEPS, COLUMNS, dtype=torch.bool)
    reset[0, 0] = reset[4, 0] = reset[4, 2] = reset[9, 1] = True
    state = core.initial_state(COLUMNS)
    assert [leaf.shape for leaf in state] == [(COLUMNS, HIDDEN)] * leaves
    core(torch.randn(STEPS, COLUMNS, INPUT_SIZE), state, reset)
    assert pieces == [4, 5, 2]
