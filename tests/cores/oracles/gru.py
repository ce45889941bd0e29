from typing import Any

import numpy as np
from oracles.blocks import Array, Leaves, Weights, sigmoid, unroll


def run(
    weights: Weights, config: Any, x: Array, state: Leaves, reset: Array
) -> tuple[Array, Leaves]:
    W, U, b_W, b_U = weights.values()  # of the input and of the hidden vector

    def step(x: Array, state: Leaves) -> tuple[Array, Leaves]:
        (h,) = state
        Wr, Wz, Wn = np.split(W @ x + b_W, 3)
        Ur, Uz, Un = np.split(U @ h + b_U, 3)
        r, z = sigmoid(Wr + Ur), sigmoid(Wz + Uz)
        h = (1 - z) * np.tanh(Wn + r * Un) + z * h
        return h, (h,)

    return unroll(weights, x, state, reset, step)
