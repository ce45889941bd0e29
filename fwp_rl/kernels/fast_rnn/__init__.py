"""An RNN whose recurrent matrix is fast weights, written by the delta rule at every step.

    R, y_prev <- 0                        where reset
    R <- R + beta (v - R k) k^T
    y <- output(z + R query(y_prev))      read after the write; y is the next step's y_prev

"Going Beyond Linear Transformers with Recurrent Fast Weight Programmers" (Irie et al., 2021): the
recurrent part of the Delta RNN is query "softmax", output "identity", z the read of a feed-forward
fast weight memory. Query "identity", output "softmax" is that paper's ablation, there v1. Keys
arrive with their feature map applied, beta between 0 and 1.
"""

from torch import Tensor

from fwp_rl.kernels.fast_rnn.reference import fast_rnn_reference
from fwp_rl.kernels.op import Op

__all__ = ["OP", "fast_rnn"]

OP = Op(
    __name__,
    inputs={
        "z": "T B H V",
        "k": "T B H V",
        "v": "T B H V",
        "beta": "T B H",
        "R": "B H V V",
        "y_prev": "B H V",
        "reset": "?T B",
    },
    options={"query": ("softmax", "identity"), "output": ("softmax", "identity")},
    outputs={"y": "T B H V", "R": "B H V V", "y_prev": "B H V"},
    saved={"queries": "T B H V", "u": "T B H V", "softmax": "T B H V"},
    only={"softmax": ("output", "softmax")},
    reference=fast_rnn_reference,
    cuda_limits={"V": 64},
    draw={"k": lambda x: x.softmax(-1), "beta": Tensor.sigmoid},
    sweeps=(3, 7),
)


def fast_rnn(
    z: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    state: tuple[Tensor, Tensor],
    *,
    reset: Tensor | None = None,
    query: str = "softmax",
    output: str = "identity",
    gradient_horizon: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run T steps of an RNN with fast recurrent weights, with exact gradients for every input.

    z, k, v   [T, B, H, V]
    beta      [T, B, H]     write strength
    state     R [B, H, V, V] and y_prev [B, H, V] before step 0; not changed, not aliased by the
              result
    reset     [T, B] bool   R and y_prev are zeroed *before* step t; None means never
    query     "softmax" or "identity": what is made of y_prev before R is read with it
    output    "identity" or "softmax"
    gradient_horizon
              n: gradients end before the steps n, 2 n, ...; None: they are exact
    backend   "auto", "reference", "numba", "cuda"; see ``fwp_rl.kernels.dispatch``
    returns   y [T, B, H, V] and the state after the last step, of the inputs' and the
              state's dtype

    Dtypes and autocast as in ``fast_weight``; gradients of gradients: reference only. Raises
    TypeError, ValueError or BackendError, in one line.

    Example: 20 steps of 3 environments, 2 heads.

    >>> z, k, v = torch.randn(3, 20, 3, 2, 8).unbind()
    >>> start = torch.zeros(3, 2, 8, 8), torch.zeros(3, 2, 8)
    >>> y, (R, y_prev) = fast_rnn(z, k.softmax(-1), v, torch.rand(20, 3, 2), start)
    >>> y.shape, torch.equal(y[-1], y_prev)
    (torch.Size([20, 3, 2, 8]), True)
    """
    return OP.apply(z, k, v, beta, state, reset, query, output, gradient_horizon, backend=backend)
