"""An LSTM whose three recurrent matrices are fast weights, written by the delta rule at every step.

    R_g, c, h <- 0                                   where reset
    R_g <- R_g + beta_g (v_g - R_g k_g) k_g^T        for the gates g = i, u, o
    a_g  = z_g + R_g softmax(h)                      read after the write
    i, o = sigmoid(a_i), sigmoid(a_o);  u = a_u
    c   <- i u + (1 - i) c;  h <- c o;  y = h

The recurrent part of the Delta LSTM, v4, of "Going Beyond Linear Transformers with Recurrent Fast
Weight Programmers" (Irie et al., 2021), where z is the read of three feed-forward fast weight
memories. Keys arrive with their feature map applied, beta between 0 and 1.
"""

from torch import Tensor

from fwp_rl.kernels.fast_lstm.reference import fast_lstm_reference
from fwp_rl.kernels.op import Op

__all__ = ["OP", "fast_lstm"]

OP = Op(
    __name__,
    inputs={
        "z": "T B 3 H V",
        "k": "T B 3 H V",
        "v": "T B 3 H V",
        "beta": "T B 3 H",
        "R": "B 3 H V V",
        "c": "B H V",
        "h": "B H V",
        "reset": "?T B",
    },
    outputs={"y": "T B H V", "R": "B 3 H V V", "c": "B H V", "h": "B H V"},
    saved={"queries": "T B H V", "u": "T B 3 H V", "gates": "T B 3 H V", "cells": "T B H V"},
    reference=fast_lstm_reference,
    cuda_limits={"V": 64},
    draw={"k": lambda x: x.softmax(-1), "beta": Tensor.sigmoid},
    sweeps=(9, 21),
)


def fast_lstm(
    z: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    state: tuple[Tensor, Tensor, Tensor],
    *,
    reset: Tensor | None = None,
    gradient_horizon: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Run T steps of an LSTM with fast recurrent weights, with exact gradients for every input.

    z, k, v   [T, B, 3, H, V]  the gates in the order i, u, o
    beta      [T, B, 3, H]     write strength
    state     R [B, 3, H, V, V], c [B, H, V] and h [B, H, V] before step 0; not changed, not
              aliased by the result
    reset     [T, B] bool      R, c and h are zeroed *before* step t; None means never
    gradient_horizon
              n: gradients end before the steps n, 2 n, ...; None: they are exact
    backend   "auto", "reference", "numba", "cuda"; see ``fwp_rl.kernels.dispatch``
    returns   y [T, B, H, V] and the state after the last step, of the inputs' and the
              state's dtype

    Dtypes and autocast as in ``fast_weight``; gradients of gradients: reference only. Raises
    TypeError, ValueError or BackendError, in one line.

    Example: 20 steps of 3 environments, 2 heads.

    >>> z, k, v = torch.randn(3, 20, 3, 3, 2, 8).unbind()
    >>> start = torch.zeros(3, 3, 2, 8, 8), torch.zeros(3, 2, 8), torch.zeros(3, 2, 8)
    >>> y, (R, c, h) = fast_lstm(z, k.softmax(-1), v, torch.rand(20, 3, 3, 2), start)
    >>> y.shape, torch.equal(y[-1], h)
    (torch.Size([20, 3, 2, 8]), True)
    """
    return OP.apply(z, k, v, beta, state, reset, gradient_horizon, backend=backend)
