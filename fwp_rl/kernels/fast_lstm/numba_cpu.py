"""The fast-LSTM op on CPU: its equations, adjoints and kernels are in ``fast_rnn.numba_gates``."""

from torch import Tensor

from fwp_rl.kernels.fast_rnn.numba_gates import backward_gates, forward_gates

__all__ = ["backward", "forward"]


def forward(
    z: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    R: Tensor,
    c: Tensor,
    h: Tensor,
    reset: Tensor | None,
) -> tuple[Tensor, ...]:
    """CPU kernel of ``torch.ops.fwp_rl.fast_lstm``: y, the R, c and h after; of every step the
    query, u, the gates and c."""
    y, R, h, c, *saved = forward_gates(z, k, v, beta, R, h, c, reset, True, False)
    return y, R, c, h, *saved


def backward(
    z: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    R: Tensor,
    c: Tensor,
    h: Tensor,
    reset: Tensor | None,
    queries: Tensor,
    u: Tensor,
    gates: Tensor,
    cells: Tensor,
    dy: Tensor,
    dR: Tensor,
    dc: Tensor,
    dh: Tensor,
) -> tuple[Tensor, ...]:
    """CPU kernel of ``torch.ops.fwp_rl.fast_lstm_backward``: the gradients of z, k, v, beta, R, c
    and h."""
    *gradients, dh, dc = backward_gates(
        k, beta, R, c, reset, True, False, queries, u, gates, cells, dy, dR, dh, dc
    )
    return *gradients, dc, dh
