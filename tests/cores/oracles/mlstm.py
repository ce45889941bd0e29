"""Gradients are taken with the stabiliser m held fixed, as the core takes them: m is real here."""

from functools import partial
from typing import Any

import numpy as np
from oracles.blocks import Array, Leaves, Weights, layer_norm, linear, part, run_blocks, sigmoid


def memory(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    C_and_n, m = state
    H, V = config.heads, config.value_size
    emitted = linear(part(p, "slow_net."), x).reshape(H, 3, V)
    i, gate = np.split(linear(part(p, "gates."), x), 2)
    f = np.log(sigmoid(gate))
    scale, shift = p["norm.weight"].reshape(H, V), p["norm.bias"].reshape(H, V)
    reads = []
    for head, (q, k, v) in enumerate(emitted):
        C, n = C_and_n[head, :-1], C_and_n[head, -1]
        after = max((f[head] + m[head]).real, i[head].real)
        decay, write = np.exp(f[head] + m[head] - after), np.exp(i[head] - after)
        C_and_n[head, :-1] = decay * C + write * np.outer(v, k / np.sqrt(V))
        C_and_n[head, -1] = decay * n + write * k / np.sqrt(V)
        m[head] = after
        weight = n @ q
        weight = weight if weight.real > 0 else -weight
        read = C @ q / (weight if weight.real > np.exp(-after) else np.exp(-after))
        reads.append(layer_norm({"weight": scale[head], "bias": shift[head]}, read))
    return sigmoid(linear(part(p, "output_gate."), x)) * np.concatenate(reads), (C_and_n, m)


run = partial(run_blocks, memory=memory)
