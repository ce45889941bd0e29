"""A fast weight matrix whose queries, keys, values and rate also depend on its own last output.

    W, y_prev <- 0                            where reset
    s    = tanh(y_prev)
    q, k = softmax(xq + R_q s), softmax(xk + R_k s)
    v    = xv + R_v s
    beta = sigmoid(xb + r_b.s)
    W   <- W + beta (v - W k) k^T             the delta rule
    y    = W q                                y is the next step's y_prev

The Recurrent Delta Net of "Going Beyond Linear Transformers with Recurrent Fast Weight
Programmers" (Irie et al., 2021). R_q, R_k, R_v and r_b are slow weights, one of each per head.
"""

from torch import Tensor

from fwp_rl.kernels.op import Op
from fwp_rl.kernels.recurrent_delta.reference import recurrent_delta_reference

__all__ = ["OP", "recurrent_delta"]

OP = Op(
    __name__,
    inputs={
        "xq": "T B H K",
        "xk": "T B H K",
        "xv": "T B H V",
        "xb": "T B H",
        "R_q": "H K V",
        "R_k": "H K V",
        "R_v": "H V V",
        "r_b": "H V",
        "W": "B H V K",
        "y_prev": "B H V",
        "reset": "?T B",
    },
    outputs={"y": "T B H V", "W": "B H V K", "y_prev": "B H V"},
    saved={"s": "T B H V", "q": "T B H K", "k": "T B H K", "beta": "T B H", "u": "T B H V"},
    reference=recurrent_delta_reference,
    cuda_limits={"K": 64, "V": 64},
    sweeps=(6, 13),
)


def recurrent_delta(
    xq: Tensor,
    xk: Tensor,
    xv: Tensor,
    xb: Tensor,
    R_q: Tensor,
    R_k: Tensor,
    R_v: Tensor,
    r_b: Tensor,
    state: tuple[Tensor, Tensor],
    *,
    reset: Tensor | None = None,
    gradient_horizon: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run T steps of a recurrent delta net, with exact gradients for every input.

    xq, xk    [T, B, H, K]  what the step's input gives to query and key, before their softmax
    xv        [T, B, H, V]  ... to the value
    xb        [T, B, H]     ... to the write strength, before its sigmoid
    R_q, R_k  [H, K, V]
    R_v       [H, V, V]
    r_b       [H, V]
    state     W [B, H, V, K] and y_prev [B, H, V] before step 0; not changed, not aliased by the
              result
    reset     [T, B] bool   W and y_prev are zeroed *before* step t; None means never
    gradient_horizon
              n: gradients end before the steps n, 2 n, ...; None: they are exact
    backend   "auto", "reference", "numba", "cuda"; see ``fwp_rl.kernels.dispatch``
    returns   y [T, B, H, V] and the state after the last step, of the inputs' and the
              state's dtype

    Dtypes and autocast as in ``fast_weight``; gradients of gradients: reference only. Raises
    TypeError, ValueError or BackendError, in one line.

    Example: 20 steps of 3 environments, 2 heads.

    >>> xq, xk = torch.randn(2, 20, 3, 2, 8).unbind()
    >>> xv, xb = torch.randn(20, 3, 2, 5), torch.randn(20, 3, 2)
    >>> slow = torch.randn(2, 8, 5), torch.randn(2, 8, 5), torch.randn(2, 5, 5), torch.randn(2, 5)
    >>> start = torch.zeros(3, 2, 5, 8), torch.zeros(3, 2, 5)
    >>> y, (W, y_prev) = recurrent_delta(xq, xk, xv, xb, *slow, start)
    >>> y.shape, torch.equal(y[-1], y_prev)
    (torch.Size([20, 3, 2, 5]), True)
    """
    return OP.apply(
        xq, xk, xv, xb, R_q, R_k, R_v, r_b, state, reset, gradient_horizon, backend=backend
    )
