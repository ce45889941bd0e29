from typing import Any

import numpy as np
from oracles.blocks import Array, Leaves, Weights, run_blocks, sigmoid, softmax

OPTIONS = [{}, {"updates": False}]


def run(
    weights: Weights, config: Any, x: Array, state: Leaves, reset: Array
) -> tuple[Array, Leaves]:
    return run_blocks(weights, config, x, state, reset, memory if config.updates else control)


def memory(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    """One matrix whose rows are the blocks y, q, k and b."""
    base = np.concatenate([p[f"W_{block}"] for block in "yqkb"], axis=1)
    shift = np.concatenate(state, axis=1)
    size = base.shape[2]
    starts = [size, 2 * size, 3 * size]
    reads = []
    for head, share in enumerate(x.reshape(len(base), -1)):
        W = base[head] + shift[head]
        y, q, k, b = np.split(W @ softmax(share), starts)
        rates = np.repeat(sigmoid(b), [size, size, size, 4])
        k = softmax(k)
        shift[head] += np.outer(rates * (W @ softmax(q) - W @ k), k)
        reads.append(y)
    return np.concatenate(reads), tuple(np.split(shift, starts, axis=1))


def control(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    heads = x.reshape(config.heads, -1)
    return np.concatenate([W @ share for W, share in zip(p["W_y"], heads, strict=True)]), state
