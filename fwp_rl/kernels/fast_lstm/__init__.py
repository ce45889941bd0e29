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

from fwp_rl.kernels.dispatch import run_op
from fwp_rl.kernels.fast_lstm.reference import fast_lstm_reference
from fwp_rl.kernels.inputs import check_state
from fwp_rl.kernels.registration import register

__all__ = ["fast_lstm"]


def fast_lstm(
    z: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    state: tuple[Tensor, Tensor, Tensor],
    *,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Run T steps of an LSTM with fast recurrent weights, with exact gradients for every input.

    z, k, v   [T, B, 3, H, V]  the gates in the order i, u, o
    beta      [T, B, 3, H]     write strength
    state     R [B, 3, H, V, V], c [B, H, V] and h [B, H, V] before step 0; not changed, not
              aliased by the result
    reset     [T, B] bool      R, c and h are zeroed *before* step t; None means never
    backend   "auto", "reference", "numba", "cuda"; see ``fwp_rl.kernels.dispatch``
    returns   y [T, B, H, V] and the state after the last step, of the inputs' and the
              state's dtype

    Dtypes and autocast as in ``fast_weight``; gradients of gradients: reference only. Raises
    TypeError, ValueError or BackendError, in one line.
    """
    R, c, h = check_state(state, "R", "c", "h")
    y, R, c, h = run_op(
        "fast_lstm",
        TABLE,
        {
            "z": (z, "T B 3 H V"),
            "k": (k, "T B 3 H V"),
            "v": (v, "T B 3 H V"),
            "beta": (beta, "T B 3 H"),
            "R": (R, "B 3 H V V"),
            "c": (c, "B H V"),
            "h": (h, "B H V"),
            "reset": (reset, "T B"),
        },
        optional=("reset",),
        cuda_limits={"V": 64},
        backend=backend,
    )
    return y, (R, c, h)


def _fake(
    z: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    R: Tensor,
    c: Tensor,
    h: Tensor,
    reset: Tensor | None,
) -> tuple[Tensor, ...]:
    after = (x.new_empty(x.shape) for x in (R, c, h))
    steps = (len(z), *h.shape)
    saved = (R.new_empty(shape) for shape in (steps, z.shape, z.shape, steps))
    return z.new_empty(steps), *after, *saved


_fused = register(
    __name__,
    inputs="Tensor z, Tensor k, Tensor v, Tensor beta, Tensor R, Tensor c, Tensor h, Tensor? reset",
    outputs="y, R, c, h",
    saved="queries, u, gates, cells",
    fake=_fake,
)

TABLE = {"reference": fast_lstm_reference, "numba": _fused, "cuda": _fused}
