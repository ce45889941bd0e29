"""Of delta_product too, which writes several times."""

from functools import partial
from typing import Any

import numpy as np
from oracles.blocks import (
    Array,
    Leaves,
    Weights,
    delta_rule,
    linear,
    mapped,
    part,
    run_blocks,
    sigmoid,
)

OPTIONS: list[dict[str, Any]] = [
    {},
    {"convolution": 1, "output_gate": False, "feature_map": "softmax"},
    {"allow_negative_eigenvalues": True, "scale_queries": True},
]


def memory(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    W, *recent = state
    H, K, V = config.heads, config.key_size, config.value_size
    n = getattr(config, "updates", 1)
    top_rate = 2 if config.allow_negative_eigenvalues else 1
    emitted = linear(part(p, "slow_net."), x)
    emitted, recent = convolved(p, emitted, recent)
    emitted = silu(emitted).reshape(H, -1)
    rates = top_rate * sigmoid(linear(part(p, "rate."), x)).reshape(H, n)
    decay = np.ones(H)
    if getattr(config, "decay", True):
        step = softplus(linear(part(p, "decay.projection."), x) + p["decay.bias"])
        decay = np.exp(-np.exp(p["decay.log_speed"]) * step)
    reads = []
    omega = p.get("feature_map.projection")
    for head in range(H):
        q, *written = np.split(emitted[head], K + np.cumsum([0, *[K] * n, *[V] * (n - 1)]))
        W[head] *= decay[head]
        for i in range(n):
            k = mapped(config, written[i], omega)
            W[head] = delta_rule(W[head], k, written[n + i], rates[head, i])
        q = mapped(config, q, omega)
        read = W[head] @ (q / np.sqrt(len(q)) if config.scale_queries else q)
        reads.append(rms_norm(read, p["norm.weight"]))
    y = np.concatenate(reads)
    if config.output_gate:
        y = y * silu(linear(part(p, "gate."), x))
    return y, (W, *recent)


def convolved(p: Weights, emitted: Array, recent: list[Array]) -> tuple[Array, list[Array]]:
    """With what was emitted in the steps before, the latest first, and that after this step."""
    if not recent:
        return emitted, recent
    inputs = [emitted, *recent[0]]
    weights = p["convolution.weight"]
    summed: Array = sum(w * u for w, u in zip(weights, inputs, strict=True))
    return summed, [np.stack(inputs[:-1])]


def rms_norm(x: Array, weight: Array) -> Array:
    return x / np.sqrt((x**2).mean() + 1e-5) * weight


def softplus(x: Array) -> Array:
    return np.log(1 + np.exp(x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


run = partial(run_blocks, memory=memory)
