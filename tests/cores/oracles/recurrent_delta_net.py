from functools import partial
from typing import Any

import numpy as np
from oracles.blocks import Array, Leaves, Weights, delta_rule, run_blocks, sigmoid, softmax


def memory(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    W, y = state
    size = y.shape[-1]
    for head, emitted in enumerate((p["projection.weight"] @ x).reshape(len(y), -1)):
        xq, xk, xv, (xb,) = np.split(emitted, [size, 2 * size, 3 * size])
        s = np.tanh(y[head])
        q = softmax(xq + p["R_q"][head] @ s)
        k = softmax(xk + p["R_k"][head] @ s)
        v = xv + p["R_v"][head] @ s
        beta = sigmoid(xb + p["r_b"][head] @ s)
        W[head] = delta_rule(W[head], k, v, beta)
        y[head] = W[head] @ q
    return y.flatten(), (W, y)


run = partial(run_blocks, memory=memory)
