"""S = Wᵀ as in the paper's equation 1: S ← (1 − β k kᵀ) diag(α) S + β k vᵀ, o = Sᵀ q."""

from functools import partial
from typing import Any

import numpy as np
from oracles.blocks import Array, Leaves, Weights, linear, mapped, part, run_blocks, sigmoid
from oracles.gated_delta_net import convolved, rms_norm, silu, softplus

OPTIONS: list[dict[str, Any]] = [
    {},
    {"convolution": 1, "allow_negative_eigenvalues": True, "scale_queries": True},
]


def queries_keys_values(
    p: Weights, config: Any, x: Array, recent: list[Array]
) -> tuple[list[tuple[Array, ...]], list[Array]]:
    """φ(q), φ(k) and v of each head; q scaled where the config says so."""
    K = config.key_size
    emitted, recent = convolved(p, p["slow_net.weight"] @ x, recent)
    found = []
    for head in silu(emitted).reshape(config.heads, -1):
        q, k, v = np.split(head, [K, 2 * K])
        q, k = mapped(config, q, None), mapped(config, k, None)
        found.append((q / np.sqrt(len(q)) if config.scale_queries else q, k, v))
    return found, recent


def decays(p: Weights, x: Array) -> Array:
    """α [H, K]"""
    projected = p["decay.projection.1.weight"] @ (p["decay.projection.0.weight"] @ x)
    bias = p["decay.bias"]
    speed = np.exp(p["decay.log_speed"])[:, None]
    return np.exp(-speed * softplus(projected.reshape(bias.shape) + bias))


def gate(p: Weights, x: Array) -> Array:
    return sigmoid(linear(part(p, "gate.1."), p["gate.0.weight"] @ x))


def memory(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    W, *recent = state
    heads, recent = queries_keys_values(p, config, x, recent)
    rates = (1 + config.allow_negative_eigenvalues) * sigmoid(p["rate.weight"] @ x)
    reads = []
    for h, ((q, k, v), decay, rate) in enumerate(zip(heads, decays(p, x), rates, strict=True)):
        keep = np.eye(len(k)) - rate * np.outer(k, k)
        S = keep @ np.diag(decay) @ W[h].T + rate * np.outer(k, v)
        W[h] = S.T
        reads.append(rms_norm(S.T @ q, p["norm.weight"]))
    return np.concatenate(reads) * gate(p, x), (W, *recent)


run = partial(run_blocks, memory=memory)
