from typing import Any

import numpy as np
from oracles.blocks import Array, Leaves, Weights, sigmoid, unroll


def run(
    weights: Weights, config: Any, x: Array, state: Leaves, reset: Array
) -> tuple[Array, Leaves]:
    W, U, b_W, b_U = weights.values()  # of the input and of the hidden vector

    def step(x: Array, state: Leaves) -> tuple[Array, Leaves]:
        h, c = state
        i, f, g, o = np.split(W @ x + b_W + U @ h + b_U, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return h, (h, c)

    return unroll(weights, x, state, reset, step)
