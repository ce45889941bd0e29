"""A self-referential weight matrix: one matrix per head that reads, and rewrites itself.

    dW <- 0                                              where reset
    M = W + dW                                           of all four blocks y, q, k, b
    y, q, k, b = M_y s, M_q s, M_k s, M_b s              s = softmax(x); read before the write
    dW_g <- dW_g + sigmoid(b_g) (M_g softmax(q) - M_g softmax(k)) softmax(k)^T      of each block g

"A Modern Self-Referential Weight Matrix That Learns to Modify Itself" (Irie et al., 2022). Only the
base weights W are trained; the state is the shift from them, so a state of zeros means W itself.
b holds four rates, one for each block in the order y, q, k, b.
"""

from torch import Tensor

from fwp_rl.kernels.op import Op
from fwp_rl.kernels.srwm.reference import srwm_reference

__all__ = ["OP", "srwm"]

OP = Op(
    __name__,
    inputs={
        "x": "T B H K",
        "W_y": "H V K",
        "W_q": "H K K",
        "W_k": "H K K",
        "W_b": "H 4 K",
        "dW_y": "B H V K",
        "dW_q": "B H K K",
        "dW_k": "B H K K",
        "dW_b": "B H 4 K",
        "reset": "?T B",
    },
    outputs={
        "y": "T B H V",
        "dW_y": "B H V K",
        "dW_q": "B H K K",
        "dW_k": "B H K K",
        "dW_b": "B H 4 K",
    },
    saved={
        "s": "T B H K",
        "q": "T B H K",
        "k": "T B H K",
        "beta": "T B H 4",
        "e": "T B H V+2*K+4",
    },
    reference=srwm_reference,
    cuda_limits={"K": 64, "V": 64},
    # wide enough for the queries, keys and rates to be far from uniform
    draw=dict.fromkeys(("W_q", "W_k", "W_b"), lambda W: 2 * W),
    sweeps=(9, 21),
)


def srwm(
    x: Tensor,
    W_y: Tensor,
    W_q: Tensor,
    W_k: Tensor,
    W_b: Tensor,
    state: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    reset: Tensor | None = None,
    gradient_horizon: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Run T steps of a self-referential weight matrix, with exact gradients for every input.

    x         [T, B, H, K]
    W_y       [H, V, K]     base weights, shared by the columns
    W_q, W_k  [H, K, K]
    W_b       [H, 4, K]
    state     dW_y [B, H, V, K], dW_q and dW_k [B, H, K, K], dW_b [B, H, 4, K] before step 0; not
              changed, not aliased by the result
    reset     [T, B] bool   the state is zeroed *before* step t; None means never
    gradient_horizon
              n: gradients end before the steps n, 2 n, ...; None: they are exact
    backend   "auto", "reference", "numba", "cuda"; see ``fwp_rl.kernels.dispatch``
    returns   y [T, B, H, V] and the state after the last step, of the inputs' and the
              state's dtype

    Dtypes and autocast as in ``fast_weight``; gradients of gradients: reference only. Raises
    TypeError, ValueError or BackendError, in one line.

    Example: 20 steps of 3 environments, 2 heads.

    >>> x, shapes = torch.randn(20, 3, 2, 8), [(2, 5, 8), (2, 8, 8), (2, 8, 8), (2, 4, 8)]
    >>> W = [torch.randn(shape) for shape in shapes]
    >>> y, shift = srwm(x, *W, tuple(torch.zeros(3, *shape) for shape in shapes))
    >>> y.shape, [part.shape[2] for part in shift]
    (torch.Size([20, 3, 2, 5]), [5, 8, 8, 4])
    """
    return OP.apply(x, W_y, W_q, W_k, W_b, state, reset, gradient_horizon, backend=backend)
