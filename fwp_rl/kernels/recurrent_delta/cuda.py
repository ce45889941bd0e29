"""The recurrent-delta op on CUDA tensors, by the kernels of cuda/recurrent_delta.cuh.

The kernels are made for heads of 16, 32 and 64: K and V are padded with zeros, inside them, to the
first that is no less than both. What the inputs give, the slow matrices and y are float32 or
bfloat16; the state, what is saved and all sums are float32. The gradients of the slow matrices come
summed over time from each (b, h), and are summed over b here.
"""

from collections.abc import Iterator

from torch import Tensor

from fwp_rl.kernels import cuda_driver
from fwp_rl.kernels.nvrtc import Kernel

__all__ = ["backward", "forward", "kernels"]

SIZES = (16, 32, 64)
FORWARD_CHUNK = 8
BACKWARD_CHUNK = 16


def kernels() -> Iterator[Kernel]:
    """Every kernel that the op can launch."""
    for D in SIZES:
        yield _forward_kernel(D)
        yield _backward_kernel(D)


def _forward_kernel(D: int) -> Kernel:
    chunk = FORWARD_CHUNK
    return Kernel(
        "recurrent_delta.cuh",
        "recurrent_delta_forward",
        template=(D, _threads(D), chunk),
        threads=_threads(D),
        shared=chunk * (3 * D + 2) + 3 * D + 1,
    )


def _backward_kernel(D: int) -> Kernel:
    chunk = BACKWARD_CHUNK
    return Kernel(
        "recurrent_delta.cuh",
        "recurrent_delta_backward",
        template=(D, _threads(D), chunk),
        threads=_threads(D),
        shared=chunk * (6 * D + 4) + 3 * D,
    )


def _padded(K: int, V: int) -> int:
    return next(D for D in SIZES if max(K, V) <= D)


def _threads(D: int) -> int:
    """One row of each matrix to a group of lanes, whose threads hold 8 or 16 numbers of it."""
    return max(32, D * D // 16)


def forward(
    xq: Tensor,
    xk: Tensor,
    xv: Tensor,
    xb: Tensor,
    R_q: Tensor,
    R_k: Tensor,
    R_v: Tensor,
    r_b: Tensor,
    W: Tensor,
    y_prev: Tensor,
    reset: Tensor | None,
) -> tuple[Tensor, ...]:
    """CUDA kernel of ``torch.ops.fwp_rl.recurrent_delta``: y, the W and the y after; of every step
    s, q, k, beta and u."""
    T, B, H, K = xq.shape
    V = xv.shape[3]
    after = xv.new_empty(xv.shape), W.new_empty(W.shape), W.new_empty(y_prev.shape)
    saved = [W.new_empty(x.shape) for x in (xv, xq, xk, xb, xv)]
    cuda_driver.launch(
        _forward_kernel(_padded(K, V)),
        xq,
        B * H,
        [
            *_contiguous(R_q, R_k, R_v, r_b, W, reset),
            *(T, B, H, K, V),
            *_contiguous(xq, xk, xv, xb, y_prev),
            *(*after, *saved),
        ],
    )
    return *after, *saved


def backward(
    xq: Tensor,
    xk: Tensor,
    xv: Tensor,
    xb: Tensor,
    R_q: Tensor,
    R_k: Tensor,
    R_v: Tensor,
    r_b: Tensor,
    W: Tensor,
    y_prev: Tensor,
    reset: Tensor | None,
    *saved_and_gradients: Tensor,
) -> tuple[Tensor, ...]:
    """CUDA kernel of ``torch.ops.fwp_rl.recurrent_delta_backward``: the gradients of all inputs.

    saved_and_gradients  what ``forward`` made beside its outputs; the gradients of its outputs
    """
    T, B, H, K = xq.shape
    V, D = xv.shape[3], _padded(K, xv.shape[3])
    steps = [W.new_empty(x.shape) for x in (xq, xk, xv, xb)]
    state = W.new_empty(W.shape), W.new_empty(y_prev.shape)
    slow = [W.new_empty((B, *R.shape)) for R in (R_q, R_k, R_v, r_b)]
    starts = W.new_empty(((T - 1) // BACKWARD_CHUNK + 1, B, H, D, D))
    cuda_driver.launch(
        _backward_kernel(D),
        xq,
        B * H,
        [
            *_contiguous(R_q, R_k, R_v, r_b, W, reset),
            *(T, B, H, K, V),
            *_contiguous(*saved_and_gradients),
            *(*steps, *state, *slow, starts),
        ],
    )
    return *(x.to(xq.dtype) for x in steps), *(x.sum(0).to(xq.dtype) for x in slow), *state


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if x is None else x.contiguous() for x in tensors]
