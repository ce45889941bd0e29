"""S = Wᵀ: S ← diag(α) S + β k vᵀ, o = Sᵀ q."""

from functools import partial
from typing import Any

import numpy as np
from oracles.blocks import Array, Leaves, Weights, linear, mapped, part, run_blocks, sigmoid
from oracles.gated_delta_net import rms_norm, silu, softplus

OPTIONS: list[dict[str, Any]] = [
    {},
    {"decay": "scalar", "shared_keys": True, "feature_map": "elu1"},
    {"decay": "fixed", "output_gate": False},
]


def memory(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    (W,) = state
    H = config.heads
    pairs = (p["query_key.weight"] @ x).reshape(-1, 2, config.key_size)
    values = (p["value.weight"] @ x).reshape(H, -1)
    rates = np.ones(H)
    if config.decay == "channel":
        narrow = p["decay.projection.0.weight"] @ x
        gate = sigmoid(linear(part(p, "decay.projection.1."), narrow))
        decays = (gate ** (1 / 16)).reshape(H, -1)
    elif config.decay == "scalar":
        rates = softplus(p["decay.decay.projection.weight"] @ x + p["decay.decay.bias"])
        decays = np.exp(-np.exp(p["decay.decay.log_speed"]) * rates)[:, None]
    else:
        decays = 1 - 2.0 ** (-5 - np.arange(H))[:, None]
    reads = []
    for h in range(H):
        q, k = (mapped(config, a, None) for a in pairs[0 if config.shared_keys else h])
        S = decays[h][:, None] * W[h].T + rates[h] * np.outer(k, values[h])
        W[h] = S.T
        reads.append(rms_norm(S.T @ q, p["norm.weight"]))
    y = np.concatenate(reads)
    if config.output_gate:
        y = y * silu(p["gate.weight"] @ x)
    return y, (W,)


run = partial(run_blocks, memory=memory)
