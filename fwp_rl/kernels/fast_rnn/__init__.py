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

from fwp_rl.kernels.dispatch import run_op
from fwp_rl.kernels.fast_rnn.reference import fast_rnn_reference
from fwp_rl.kernels.inputs import check_state
from fwp_rl.kernels.registration import register
from fwp_rl.registry import suggestion

__all__ = ["fast_rnn"]

MAPS = ("softmax", "identity")


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
    backend   "auto", "reference", "numba", "cuda"; see ``fwp_rl.kernels.dispatch``
    returns   y [T, B, H, V] and the state after the last step, of the inputs' and the
              state's dtype

    Dtypes and autocast as in ``fast_weight``; gradients of gradients: reference only. Raises
    TypeError, ValueError or BackendError, in one line.
    """
    for name, value in (("query", query), ("output", output)):
        if value not in MAPS:
            hint = suggestion(str(value), MAPS)
            raise ValueError(
                f"unknown {name} {value!r}. {hint + ' ' if hint else ''}Known: softmax, identity"
            )
    R, y_prev = check_state(state, "R", "y_prev")
    y, R, y_prev = run_op(
        "fast_rnn",
        TABLE,
        {
            "z": (z, "T B H V"),
            "k": (k, "T B H V"),
            "v": (v, "T B H V"),
            "beta": (beta, "T B H"),
            "R": (R, "B H V V"),
            "y_prev": (y_prev, "B H V"),
            "reset": (reset, "T B"),
        },
        query,
        output,
        optional=("reset",),
        cuda_limits={"V": 64},
        backend=backend,
    )
    return y, (R, y_prev)


def _fake(
    z: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    R: Tensor,
    y_prev: Tensor,
    reset: Tensor | None,
    query: str,
    output: str,
) -> tuple[Tensor, ...]:
    queries, u = R.new_empty(z.shape), R.new_empty(z.shape)
    softmax = R.new_empty(z.shape if output == "softmax" else 0)
    after = R.new_empty(R.shape), y_prev.new_empty(y_prev.shape)
    return z.new_empty(z.shape), *after, queries, u, softmax


_fused = register(
    __name__,
    inputs="Tensor z, Tensor k, Tensor v, Tensor beta, Tensor R, Tensor y_prev, Tensor? reset, "
    "str query, str output",
    outputs="y, R, y_prev",
    saved="queries, u, softmax",
    fake=_fake,
)

TABLE = {"reference": fast_rnn_reference, "numba": _fused, "cuda": _fused}
