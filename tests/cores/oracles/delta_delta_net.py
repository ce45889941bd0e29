from functools import partial
from typing import Any

import numpy as np
from oracles.blocks import (
    Array,
    Leaves,
    Weights,
    delta_rule,
    mapped,
    part,
    query_key_value,
    run_blocks,
    sigmoid,
)


def memory(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    U, W = state
    K, V = config.key_size, config.value_size
    omega = p.get("slow_net.feature_map.projection")
    reads = []
    for head, (q, k, v, rest) in enumerate(query_key_value(part(p, "slow_net."), config, x)):
        v = np.concatenate([v, rest[:-1]])
        U[head] = delta_rule(U[head], k, v, sigmoid(rest[-1]))
        fast_v, fast_q, fast_k, b = np.split(U[head] @ q, np.cumsum([V, K, K]))
        fast_q, fast_k = (mapped(config, a, omega) for a in (fast_q, fast_k))
        W[head] = delta_rule(W[head], fast_k, fast_v, sigmoid(b))
        reads.append(W[head] @ fast_q)
    return np.concatenate(reads), (U, W)


run = partial(run_blocks, memory=memory)
