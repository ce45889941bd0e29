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

OPTIONS = [{"version": version} for version in ("v4", "v3", "v2", "v1")]


def memory(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    W, R, c, h = state
    heads, size = h.shape
    emitted = query_key_value(part(p, "slow_net."), config, x, heads=3 * heads)
    for head in range(heads):
        query = h[head] if config.version == "v1" else softmax(h[head])
        z, a = [], []
        for gate in range(3):
            at = gate * heads + head
            q, k, v, rest = emitted[at]
            rk, rv, (b, rb) = np.split(rest, [size, 2 * size])
            W[at] = delta_rule(W[at], k, v, sigmoid(b))
            R[gate, head] = delta_rule(R[gate, head], softmax(rk), rv, sigmoid(rb))
            z.append(W[at] @ q)
            a.append(z[gate] + R[gate, head] @ query)
        i, o = sigmoid(a[0]), sigmoid(a[2])
        u = a[1] if config.version == "v4" else sigmoid(a[1])
        c[head] = i * u + (1 - i) * c[head]
        h[head] = c[head] * o
        if config.version == "v3":
            h[head] = h[head] + z[1]
        elif config.version == "v1":
            h[head] = softmax(h[head])
    return h.flatten(), (W, R, c, h)


run = partial(run_blocks, memory=memory)
