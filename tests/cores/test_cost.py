import pytest

from fwp_rl.cores import CORES, CoreConfig
from fwp_rl.cores.cost import Cost, cost
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.rnn import LSTMConfig


def delta_net_by_hand(d: int, heads: int, key: int, f: int, inputs: int) -> Cost:
    """One layer; the last product of a write is the one with β."""
    value = d // heads
    W = heads * value * key
    slow = heads * (2 * key + value + 1) * d
    blocks = d * inputs + slow + d * d + 2 * d * f
    norms_and_biases = d + 4 * d + f + d
    read_twice_and_write = 3 * W + heads * value
    return Cost(blocks + norms_and_biases, W, blocks + read_twice_and_write)


@pytest.mark.parametrize(
    ("config", "inputs", "expected"),
    [
        (CORES["feedforward"](), 257, Cost(0, 0, 0)),
        # four gates of the input and of h; then f c, i g and o tanh(c)
        (LSTMConfig(hidden_size=8), 5, Cost(32 * 13 + 64, 16, 32 * 13 + 3 * 8)),
        (
            DeltaNetConfig(layers=1, hidden_size=12, heads=3, head_size=5, feedforward_size=7),
            11,
            delta_net_by_hand(d=12, heads=3, key=5, f=7, inputs=11),
        ),
    ],
)
def test_costs_equal_those_counted_by_hand(config: CoreConfig, inputs: int, expected: Cost) -> None:
    assert cost(config, inputs) == expected
