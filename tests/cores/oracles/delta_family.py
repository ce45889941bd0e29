"""The other way around, S = Wᵀ, each write as the matrix that it multiplies S by."""

from functools import partial
from typing import Any

import numpy as np
from oracles.blocks import Array, Leaves, Weights, linear, mapped, part, run_blocks, sigmoid
from oracles.gated_delta_net import convolved, rms_norm, silu, softplus

OPTIONS: list[dict[str, Any]] = [
    {"updates": 2, "decay": "channel", "erase": "gated", "allow_negative_eigenvalues": True},
    {"decay": "channel", "feature_map": "dpfp1", "output_gate": False},
    {
        **{"decay": None, "erase": "gated", "convolution": 1, "feature_map": "elu1"},
        **{"silu": False, "read_norm": False, "scale_queries": True},
    },
]


def memory(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    W, *recent = state
    H, K, n = config.heads, config.key_size, config.updates
    emitted, recent = convolved(p, p["slow_net.weight"] @ x, recent)
    heads = (silu(emitted) if config.silu else emitted).reshape(H, -1)
    rates = sigmoid(p["rate.weight"] @ x).reshape(H, n)
    if config.allow_negative_eigenvalues:
        rates = 2 * rates
    erases = np.ones((H, n, W.shape[-1]))
    if config.erase == "gated":
        erases = sigmoid(p["erase_gate.weight"] @ x).reshape(erases.shape)
    decays = np.ones((H, 1))
    if config.decay is not None:
        bias = p["decay.bias"].reshape(H, -1)
        step = softplus((p["decay.projection.weight"] @ x).reshape(bias.shape) + bias)
        decays = np.exp(-np.exp(p["decay.log_speed"])[:, None] * step)
    reads = []
    for h in range(H):
        q, k, v = np.split(heads[h], [K, K + n * K])
        S = decays[h][:, None] * W[h].T
        for key, value, rate, erase in zip(
            k.reshape(n, -1), v.reshape(n, -1), rates[h], erases[h], strict=True
        ):
            key = mapped(config, key, None)
            S = (np.eye(len(key)) - rate * np.outer(key, erase * key)) @ S
            S = S + rate * np.outer(key, value)
        W[h] = S.T
        q = mapped(config, q, None)
        read = S.T @ (q / np.sqrt(len(q)) if config.scale_queries else q)
        reads.append(rms_norm(read, p["norm.weight"]) if config.read_norm else read)
    y = np.concatenate(reads)
    if config.output_gate:
        y = y * silu(linear(part(p, "gate."), x))
    return y, (W, *recent)


run = partial(run_blocks, memory=memory)
