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

from fwp_rl.kernels.dispatch import run_op
from fwp_rl.kernels.inputs import check_state
from fwp_rl.kernels.registration import register
from fwp_rl.kernels.srwm.reference import srwm_reference

__all__ = ["srwm"]


def srwm(
    x: Tensor,
    W_y: Tensor,
    W_q: Tensor,
    W_k: Tensor,
    W_b: Tensor,
    state: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    reset: Tensor | None = None,
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
    backend   "auto", "reference", "numba", "cuda"; see ``fwp_rl.kernels.dispatch``
    returns   y [T, B, H, V] and the state after the last step, of the inputs' and the
              state's dtype

    Dtypes and autocast as in ``fast_weight``; gradients of gradients: reference only. Raises
    TypeError, ValueError or BackendError, in one line.
    """
    dW_y, dW_q, dW_k, dW_b = check_state(state, "dW_y", "dW_q", "dW_k", "dW_b")
    y, dW_y, dW_q, dW_k, dW_b = run_op(
        "srwm",
        TABLE,
        {
            "x": (x, "T B H K"),
            "W_y": (W_y, "H V K"),
            "W_q": (W_q, "H K K"),
            "W_k": (W_k, "H K K"),
            "W_b": (W_b, "H 4 K"),
            "dW_y": (dW_y, "B H V K"),
            "dW_q": (dW_q, "B H K K"),
            "dW_k": (dW_k, "B H K K"),
            "dW_b": (dW_b, "B H 4 K"),
            "reset": (reset, "T B"),
        },
        optional=("reset",),
        cuda_limits={"K": 64, "V": 64},
        backend=backend,
    )
    return y, (dW_y, dW_q, dW_k, dW_b)


def _fake(
    x: Tensor,
    W_y: Tensor,
    W_q: Tensor,
    W_k: Tensor,
    W_b: Tensor,
    dW_y: Tensor,
    dW_q: Tensor,
    dW_k: Tensor,
    dW_b: Tensor,
    reset: Tensor | None,
) -> tuple[Tensor, ...]:
    T, B, H, K = x.shape
    V = W_y.shape[1]
    shifts = (dW.new_empty(dW.shape) for dW in (dW_y, dW_q, dW_k, dW_b))
    s, q, k = (dW_y.new_empty(x.shape) for _ in range(3))
    beta, e = dW_y.new_empty((T, B, H, 4)), dW_y.new_empty((T, B, H, V + 2 * K + 4))
    return x.new_empty((T, B, H, V)), *shifts, s, q, k, beta, e


_fused = register(
    __name__,
    inputs="Tensor x, Tensor W_y, Tensor W_q, Tensor W_k, Tensor W_b, Tensor dW_y, Tensor dW_q, "
    "Tensor dW_k, Tensor dW_b, Tensor? reset",
    outputs="y, dW_y, dW_q, dW_k, dW_b",
    saved="s, q, k, beta, e",
    fake=_fake,
)

TABLE = {"reference": srwm_reference, "numba": _fused, "cuda": _fused}
