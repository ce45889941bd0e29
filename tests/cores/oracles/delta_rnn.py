from functools import partial
from typing import Any

import numpy as np
from oracles.blocks import (
    Array,
    Leaves,
    Weights,
    delta_rule,
    part,
    query_key_value,
    run_blocks,
    sigmoid,
    softmax,
)

OPTIONS = [{}, {"feature_map": "elu1"}, {"version": "v1"}]


def memory(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    W, R, y = state
    size = y.shape[-1]
    emitted = query_key_value(part(p, "slow_net."), config, x)
    for head, (q, k, v, rest) in enumerate(emitted):
        rk, rv, (b, rb) = np.split(rest, [size, 2 * size])
        W[head] = delta_rule(W[head], k, v, sigmoid(b))
        R[head] = delta_rule(R[head], softmax(rk), rv, sigmoid(rb))
        z = W[head] @ q
        if config.version == "v2":
            y[head] = z + R[head] @ softmax(y[head])
        else:
            y[head] = softmax(z + R[head] @ y[head])
    return y.flatten(), (W, R, y)


run = partial(run_blocks, memory=memory)
