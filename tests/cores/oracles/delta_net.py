from functools import partial
from typing import Any

import numpy as np
from oracles.blocks import (
    FEATURE_MAPS,
    Array,
    Leaves,
    Weights,
    delta_rule,
    part,
    query_key_value,
    run_blocks,
    sigmoid,
)

OPTIONS: list[dict[str, Any]] = [
    *({"feature_map": name} for name in FEATURE_MAPS),
    {"attention_normaliser": True},
    {"feature_map": "favor", "favor_epsilon": 0.03},
    {"feature_map": "identity", "allow_negative_eigenvalues": True},
    {"attention_normaliser": True, "allow_negative_eigenvalues": True},
]


def memory(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    W, *z = state
    top_rate = 2 if config.allow_negative_eigenvalues else 1
    reads = []
    for head, (q, k, v, b) in enumerate(query_key_value(part(p, "slow_net."), config, x)):
        beta = top_rate * sigmoid(b)
        if config.attention_normaliser:
            held = z[0][head] @ k
            held = held if held != 0 else 1
            z[0][head] += k
            k_written = k / (held + 1e-5)
            W[head] = delta_rule(W[head], k_written, v, beta * held)
            reads.append(W[head] @ q / (z[0][head] @ q + 1e-5))
        else:
            W[head] = delta_rule(W[head], k, v, beta)
            reads.append(W[head] @ q)
    return np.concatenate(reads), (W, *z)


run = partial(run_blocks, memory=memory)
