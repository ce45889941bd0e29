"""With keys, values and positions formed one by one, and a window that is a list."""

from typing import Any

import numpy as np
from oracles.blocks import (
    Array,
    Leaves,
    Weights,
    feedforward,
    layer_norm,
    linear,
    part,
    relu,
    sigmoid,
    softmax,
)

OPTIONS: list[dict[str, Any]] = [{"window": 3}, {"window": 12}]


def run(
    weights: Weights, config: Any, x: Array, state: Leaves, reset: Array
) -> tuple[Array, Leaves]:
    number = np.result_type(x, *state, *weights.values())
    y = np.zeros((*reset.shape, config.hidden_size), number)
    after = [np.zeros(leaf.shape, number) for leaf in state]
    for b in range(reset.shape[1]):
        windows = [[slot for slot in leaf[b] if slot[-1].real != 0] for leaf in state]
        for t in range(len(x)):
            if reset[t, b]:
                windows = [[] for _ in windows]
            h = linear(part(weights, "input_projection."), x[t, b])
            for layer, window in enumerate(windows):
                p = part(weights, f"blocks.{layer}.")
                window.append(np.append(layer_norm(part(p, "norm."), h), 1))
                del window[: -config.window - 1]
                seen = [slot[:-1] for slot in window]
                read = attention(part(p, "memory."), config, seen)
                h = gate(part(p, "memory_gate."), h, relu(p["out.weight"] @ read))
                fed = relu(feedforward(part(p, "feedforward."), h))
                h = gate(part(p, "feedforward_gate."), h, fed)
            y[t, b] = h
        for leaf, window in zip(after, windows, strict=True):
            for ago, slot in enumerate(reversed(window[-config.window :])):
                leaf[b, -1 - ago] = slot
    return y, tuple(after)


def attention(p: Weights, config: Any, window: list[Array]) -> Array:
    """From the last step of the window to all of it."""
    K = config.value_size
    q = (p["query.weight"] @ window[-1]).reshape(-1, K)
    scores = []
    for ago, slot in enumerate(reversed(window)):
        k = (p["key.weight"] @ slot).reshape(-1, K)
        r = (p["position.weight"] @ sinusoids(ago, len(slot))).reshape(-1, K)
        content, position = (q + p["content_bias"]) * k, (q + p["position_bias"]) * r
        scores.append((content + position).sum(-1) / np.sqrt(K))
    values = [(p["value.weight"] @ slot).reshape(-1, K) for slot in reversed(window)]
    weights = np.stack([softmax(head) for head in np.stack(scores, axis=1)])  # [H, window]
    return np.einsum("hw,whv->hv", weights, np.stack(values)).flatten()


def sinusoids(ago: int, size: int) -> Array:
    angle = ago / 10_000 ** (np.arange(0, size, 2) / size)
    both = np.concatenate([np.sin(angle), np.cos(angle)])[:size]
    return both.astype(np.float32).astype(np.float64)  # the module keeps them in float32


def gate(p: Weights, h: Array, y: Array) -> Array:
    y_r, y_z, y_g = np.split(p["of_y.weight"] @ y, 3)
    h_r, h_z = np.split(p["of_h.weight"] @ h, 2)
    r = sigmoid(y_r + h_r)
    z = sigmoid(y_z + h_z - p["bias"])
    return (1 - z) * h + z * np.tanh(y_g + p["of_reset_h.weight"] @ (r * h))
