from functools import partial
from typing import Any

import numpy as np
from oracles.blocks import (
    Array,
    Leaves,
    Weights,
    delta_rule,
    layer_norm,
    linear,
    part,
    phi,
    run_blocks,
    sigmoid,
)

OPTIONS: list[dict[str, Any]] = [{"depth": 2}]


def memory(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    V = config.value_size
    emitted = linear(part(p, "slow_net."), x).reshape(config.heads, -1)
    reads = []
    for head in range(config.heads):
        sizes = [V, *[V, 4 * V, 1, 4 * V, V, 1] * config.depth]
        q, *rest = np.split(emitted[head], np.cumsum(sizes)[:-1])
        for block in range(config.depth):
            U, W = state[2 * block], state[2 * block + 1]
            k, v, b, k2, v2, b2 = rest[6 * block : 6 * block + 6]
            U[head] = delta_rule(U[head], phi("elu1", k), v, sigmoid(b))
            a = U[head] @ phi("elu1", layer_norm(part(p, f"norms.{block}."), q))
            W[head] = delta_rule(W[head], phi("elu1", k2), v2, sigmoid(b2))
            q = q + W[head] @ phi("elu1", a)
        reads.append(q)
    return np.concatenate(reads), state


run = partial(run_blocks, memory=memory)
