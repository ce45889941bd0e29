"""S = Wᵀ: S ← (1 − k (b ⊙ k)ᵀ) diag(α) S + k (w ⊙ v)ᵀ, o = Sᵀ q."""

from functools import partial
from typing import Any

import numpy as np
from oracles.blocks import Array, Leaves, Weights, run_blocks, sigmoid
from oracles.gated_delta_net import rms_norm
from oracles.kimi_delta import decays, gate, queries_keys_values

OPTIONS: list[dict[str, Any]] = [{}, {"convolution": 1, "allow_negative_eigenvalues": True}]


def memory(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    W, *recent = state
    H = config.heads
    heads, recent = queries_keys_values(p, config, x, recent)
    erases = sigmoid(p["erase_gate.weight"] @ x).reshape(H, -1)
    if config.allow_negative_eigenvalues:
        erases = 2 * erases
    writes = sigmoid(p["write_gate.weight"] @ x).reshape(H, -1)
    reads = []
    for h, ((q, k, v), decay) in enumerate(zip(heads, decays(p, x), strict=True)):
        keep = np.eye(len(k)) - np.outer(k, erases[h] * k)
        S = keep @ np.diag(decay) @ W[h].T + np.outer(k, writes[h] * v)
        W[h] = S.T
        reads.append(rms_norm(S.T @ q, p["norm.weight"]))
    return np.concatenate(reads) * gate(p, x), (W, *recent)


run = partial(run_blocks, memory=memory)
