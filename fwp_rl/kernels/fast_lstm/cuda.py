"""The fast-LSTM op on CUDA tensors: the kernels are those of the fast RNN, with three gates."""

from collections.abc import Iterator

from torch import Tensor

from fwp_rl.kernels.fast_rnn.cuda import backward_gates, forward_gates, gate_kernels
from fwp_rl.kernels.nvrtc import Kernel

__all__ = ["backward", "forward", "kernels"]


def kernels() -> Iterator[Kernel]:
    """Every kernel of cuda/fast_rnn.cuh that the op can launch."""
    yield from gate_kernels(3)


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
    """CUDA kernel of ``torch.ops.fwp_rl.fast_lstm``: y, the R, c and h after; of every step the
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
    """CUDA kernel of ``torch.ops.fwp_rl.fast_lstm_backward``: the gradients of z, k, v, beta, R, c
    and h."""
    *gradients, dh, dc = backward_gates(
        k, v, beta, R, c, reset, True, False, queries, u, gates, cells, dy, dR, dh, dc
    )
    return *gradients, dc, dh
