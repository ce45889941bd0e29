"""One step as the paper writes it: S ← S (diag(w) − κ̂ᵀ (a ⊙ κ̂)) + vᵀ k, the vectors being rows."""

from functools import partial
from typing import Any

import numpy as np
from oracles.blocks import Array, Leaves, Weights, linear, part, phi, run_blocks, sigmoid

OPTIONS: list[dict[str, Any]] = [{"bottleneck": 3}]


def memory(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    W, last = state
    H = config.heads
    x_r, x_w, x_k, x_v, x_a, x_g = ((1 - mu) * x + mu * last[0] for mu in p["shift"])
    r, key, v = p["receptance.weight"] @ x_r, p["key.weight"] @ x_k, p["value.weight"] @ x_v
    decay = sigmoid(linear(part(p, "decay_out."), np.tanh(p["decay_in.weight"] @ x_w)))
    w = np.exp(-np.exp(-0.5) * decay)
    a = sigmoid(linear(part(p, "rate.1."), p["rate.0.weight"] @ x_a))
    g = p["gate_out.weight"] @ sigmoid(p["gate_in.weight"] @ x_g)
    k = key * (1 + (a - 1) * p["key_rate"])
    removed = key * p["erase_scale"]
    r, k, v, w, a, removed = (u.reshape(H, -1) for u in (r, k, v, w, a, removed))
    weights, biases = (p[f"norm.{name}"].reshape(H, -1) for name in ("weight", "bias"))
    reads = []
    for h in range(H):
        kappa = phi("identity", removed[h])
        W[h] = W[h] @ (np.diag(w[h]) - np.outer(kappa, a[h] * kappa)) + np.outer(v[h], k[h])
        read = W[h] @ r[h]
        read = read - read.mean()
        read = read / np.sqrt((read**2).mean() + 1e-5 * len(read)) * weights[h] + biases[h]
        reads.append(read + (r[h] * p["bonus"][h] * k[h]).sum() * v[h])
    return np.concatenate(reads) * g, (W, x[None])


run = partial(run_blocks, memory=memory)
