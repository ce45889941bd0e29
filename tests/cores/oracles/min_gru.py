from functools import partial
from typing import Any

import numpy as np
from oracles.blocks import Array, Leaves, Weights, linear, part, run_blocks, sigmoid

OPTIONS = [{}, {"state_size": 7}]


def memory(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    (h,) = state
    gate, candidate = np.split(linear(part(p, "slow_net."), x), 2)
    z = sigmoid(gate)
    h = (1 - z) * h + z * candidate
    return h, (h,)


run = partial(run_blocks, memory=memory)
