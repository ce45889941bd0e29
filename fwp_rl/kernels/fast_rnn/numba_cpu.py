"""The fast-RNN op on CPU: its equations, adjoints and kernels are in ``numba_gates``."""

from torch import Tensor

from fwp_rl.kernels.fast_rnn.numba_gates import backward_gates, forward_gates

__all__ = ["backward", "forward"]


def forward(
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
    """CPU kernel of ``torch.ops.fwp_rl.fast_rnn``: y, the R and the y after; of every step the
    query, u and, if it is a softmax, y."""
    y, R, y_prev, _, *saved, _ = forward_gates(
        z, k, v, beta, R, y_prev, z.new_empty(0), reset, query == "softmax", output == "softmax"
    )
    return y, R, y_prev, *saved


def backward(
    z: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    R: Tensor,
    y_prev: Tensor,
    reset: Tensor | None,
    query: str,
    output: str,
    queries: Tensor,
    u: Tensor,
    softmax: Tensor,
    dy: Tensor,
    dR: Tensor,
    dy_last: Tensor,
) -> tuple[Tensor, ...]:
    """CPU kernel of ``torch.ops.fwp_rl.fast_rnn_backward``: the gradients of z, k, v, beta, R and
    y_prev."""
    no = z.new_empty(0)
    return backward_gates(
        k, beta, R, no, reset, query == "softmax", output == "softmax",
        queries, u, softmax, no, dy, dR, dy_last, no,
    )[:-1]  # fmt: skip
