"""torch's recurrent nets with resets inside the sequence, in both ways in which they are run."""

import math

import pytest
import torch
from torch import Tensor, nn

from fwp_rl.cores import Core, build_core, rnn
from fwp_rl.cores.rnn import GRUConfig, LSTMConfig
from fwp_rl.types import State

STEPS, COLUMNS, INPUT_SIZE, HIDDEN = 11, 3, 5, 7

every_net = pytest.mark.parametrize("config", [LSTMConfig, GRUConfig])
RESETS: dict[str, list[tuple[int, int]]] = {
    "none": [],
    "first": [(0, 0)],
    "inside": [(0, 1), (4, 0), (4, 2), (5, 0), (10, 1)],
    "last": [(10, 0), (10, 1), (10, 2)],
    "all": [(t, b) for t in range(STEPS) for b in range(COLUMNS)],
}


@pytest.fixture(params=["packed", "cut"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How unrolls are run, whichever is faster."""
    monkeypatch.setattr(rnn._RNN, "way", request.param)
    return str(request.param)


def make(
    config: type[LSTMConfig | GRUConfig], resets: list[tuple[int, int]], horizon: int | None = None
) -> tuple[Core, Tensor, State, Tensor]:
    """In float64, with a state that takes gradients."""
    torch.manual_seed(0)
    core = build_core(config(hidden_size=HIDDEN, gradient_horizon=horizon), INPUT_SIZE).double()
    x = torch.randn(STEPS, COLUMNS, INPUT_SIZE, dtype=torch.float64, requires_grad=True)
    state = tuple(
        torch.randn(leaf.shape, dtype=torch.float64, requires_grad=True)
        for leaf in core.initial_state(COLUMNS)
    )
    reset = torch.zeros(STEPS, COLUMNS, dtype=torch.bool)
    for t, b in resets:
        reset[t, b] = True
    return core, x, state, reset


def cell_loop(
    core: Core, x: Tensor, state: State, reset: Tensor, horizon: int | None = None
) -> tuple[Tensor, State]:
    """Step by step with torch's cells, the state multiplied by a mask where it resets, and detached
    before every ``horizon``-th step."""
    cls = nn.LSTMCell if len(state) == 2 else nn.GRUCell
    cell = cls(INPUT_SIZE, HIDDEN)
    # input, hidden, then their biases, as in the cells
    for name, weight in zip(list(cell._parameters), core.parameters(), strict=True):
        setattr(cell, name, weight)
    outputs = []
    for t, (x_t, reset_t) in enumerate(zip(x, reset, strict=True)):
        if t and horizon and t % horizon == 0:
            state = tuple(leaf.detach() for leaf in state)
        state = tuple(leaf * ~reset_t[:, None] for leaf in state)
        after = cell(x_t, state if len(state) == 2 else state[0])
        state = after if len(state) == 2 else (after,)
        outputs.append(state[0])
    return torch.stack(outputs), state


def outcome(core: Core, x: Tensor, state: State, found: tuple[Tensor, State]) -> list[Tensor]:
    """Outputs, last state, and the gradients of a loss on all of them to all that takes any."""
    y, after = found
    loss = y.sin().sum() + sum(leaf.cos().sum() for leaf in after)
    leaves = [x, *state, *core.parameters()]
    return [y, *after, *torch.autograd.grad(loss, leaves)]


@every_net
@pytest.mark.parametrize("horizon", [None, 1, 4])
@pytest.mark.parametrize("resets", RESETS.values(), ids=RESETS)
def test_equals_a_loop_over_cells_with_all_gradients(
    config: type[LSTMConfig | GRUConfig],
    resets: list[tuple[int, int]],
    horizon: int | None,
    way: str,
) -> None:
    core, x, state, reset = make(config, resets, horizon)
    found = outcome(core, x, state, core(x, state, reset))
    expected = outcome(core, x, state, cell_loop(core, x, state, reset, horizon))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@every_net
@pytest.mark.parametrize(("steps", "columns"), [(2, 1), (3, 2), (17, 5)])
def test_equals_it_wherever_episodes_begin(
    config: type[LSTMConfig | GRUConfig], steps: int, columns: int, way: str
) -> None:
    core, *_ = make(config, [])
    for rate in (0.05, 0.3, 0.8):
        x = torch.randn(steps, columns, INPUT_SIZE, dtype=torch.float64, requires_grad=True)
        state = tuple(
            torch.randn(columns, HIDDEN, dtype=torch.float64, requires_grad=True)
            for _ in core.initial_state(1)
        )
        reset = torch.rand(steps, columns) < rate
        found = outcome(core, x, state, core(x, state, reset))
        expected = outcome(core, x, state, cell_loop(core, x, state, reset))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@every_net
def test_what_is_not_finite_does_not_pass_a_reset(
    config: type[LSTMConfig | GRUConfig], way: str
) -> None:
    core, x, state, reset = make(config, [(0, 0), (4, 1)])
    y, after = core(x, state, reset)
    poisoned = tuple(leaf.detach().clone() for leaf in state)
    for leaf in poisoned:
        leaf[0] = math.nan
        leaf.requires_grad_()
    found, found_after = core(x, poisoned, reset)
    torch.testing.assert_close((found, found_after), (y, after))
    gradients = torch.autograd.grad(found.square().sum(), [*core.parameters(), *poisoned])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not any(gradient[0].any() for gradient in gradients[-len(state) :])
    with torch.no_grad():
        x[:4, 1] = math.inf
    found, found_after = core(x, state, reset)
    torch.testing.assert_close(found[4:], y[4:])
    torch.testing.assert_close((found[:, [0, 2]], found_after), (y[:, [0, 2]], after))


@every_net
def test_packed_it_is_one_call_and_cut_only_where_a_column_resets(
    config: type[LSTMConfig | GRUConfig], way: str
) -> None:
    core, x, state, reset = make(config, [(0, 0), (4, 0), (4, 2), (9, 1)])
    shapes: list[torch.Size] = []
    net = next(core.children())
    net.register_forward_hook(lambda module, inputs, output: shapes.append(inputs[0].shape))
    core(x, state, reset)
    if way == "packed":
        assert shapes == [(STEPS * COLUMNS, INPUT_SIZE)]
    else:
        assert shapes == [(steps, COLUMNS, INPUT_SIZE) for steps in (4, 5, 2)]


@every_net
def test_many_resets_are_packed_and_few_cut_on_a_cpu(
    config: type[LSTMConfig | GRUConfig],
) -> None:
    core, *_ = make(config, [])
    x, state = torch.zeros(64, 4, INPUT_SIZE, dtype=torch.float64), core.initial_state(4)
    state = tuple(leaf.double() for leaf in state)
    calls: list[int] = []
    next(core.children()).register_forward_hook(lambda *_: calls.append(1))
    for every, count in ((8, 1), (63, 2), (64, 1)):
        reset = torch.zeros(64, 4, dtype=torch.bool)
        reset[every::every] = True
        calls.clear()
        core(x, state, reset)
        assert len(calls) == count, f"a reset every {every} steps"


@pytest.mark.parametrize(("config", "leaves"), [(LSTMConfig, 2), (GRUConfig, 1)])
def test_the_state_is_one_or_two_vectors(config: type[LSTMConfig | GRUConfig], leaves: int) -> None:
    core = build_core(config(hidden_size=HIDDEN), INPUT_SIZE)
    assert [leaf.shape for leaf in core.initial_state(COLUMNS)] == [(COLUMNS, HIDDEN)] * leaves
