from functools import partial
from typing import Any

import numpy as np
from oracles.blocks import (
    FEATURE_MAPS,
    Array,
    Leaves,
    Weights,
    part,
    query_key_value,
    run_blocks,
)

OPTIONS: list[dict[str, Any]] = [
    *({"feature_map": name} for name in FEATURE_MAPS),
    {"attention_normaliser": True},
    {"attention_normaliser": True, "feature_map": "dpfp2"},
]


def memory(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    (W,) = state
    reads = []
    for head, (q, k, v, _) in enumerate(query_key_value(part(p, "slow_net."), config, x)):
        written = np.append(v, 1) if config.attention_normaliser else v
        W[head] += np.outer(written, k)
        read = W[head] @ q
        reads.append(read[:-1] / (read[-1] + 1e-6) if config.attention_normaliser else read)
    return np.concatenate(reads), (W,)


run = partial(run_blocks, memory=memory)
