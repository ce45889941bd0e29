"""The self-referential weight matrix on CUDA tensors, by the kernels of cuda/srwm.cuh.

The kernels are made for K of 16, 32 and 64 and for V of K and 64; sizes between are padded with
zeros inside them. x, the base weights and y are float32 or bfloat16; the state, what is saved and
all sums are float32.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fwp_rl.kernels import cuda_driver
from fwp_rl.kernels.nvrtc import Kernel

__all__ = ["backward", "forward", "kernels"]

SIZES = ((16, 16), (16, 64), (32, 32), (32, 64), (64, 64))
FORWARD_CHUNK = 16
BACKWARD_CHUNK = 16


def kernels() -> Iterator[Kernel]:
    """Every kernel that the op can launch."""
    for K, V in SIZES:
        yield _forward_kernel(K, V)
        yield _backward_kernel(K, V)


def _forward_kernel(K: int, V: int) -> Kernel:
    K, V, threads, _ = _geometry(K, V)
    chunk = FORWARD_CHUNK
    return Kernel(
        "srwm.cuh",
        "srwm_forward",
        template=(K, V, threads, chunk),
        threads=threads,
        shared=chunk * (K + 1) + 4 * K + 4,
    )


def _backward_kernel(K: int, V: int) -> Kernel:
    K, V, threads, rows = _geometry(K, V)
    chunk, warps = BACKWARD_CHUNK, threads // 32
    return Kernel(
        "srwm.cuh",
        "srwm_backward",
        template=(K, V, threads, chunk),
        threads=threads,
        shared=chunk * (3 * K + 3 * rows + 6) + rows + 3 * warps * K,
    )


def _geometry(K: int, V: int) -> tuple[int, int, int, int]:
    """K and V of the kernel; its threads: whole warps, as few as leave each at most 32 numbers of
    the matrix to hold; the rows that they hold: as many for each group of threads that share
    some."""
    K, V = next(sizes for sizes in SIZES if sizes[0] >= K and sizes[1] >= V)
    rows = V + 2 * K + 4
    threads = 32 * _whole(rows * K, 32 * 32)
    if threads > 384:  # 13 warps would leave 128 registers a thread, too few for the backward
        threads = 256
    groups = threads // max(2, K // 16)
    return K, V, threads, groups * _whole(rows, groups)


def _whole(count: int, size: int) -> int:
    """How many parts of some size hold so many."""
    return -(-count // size)


def forward(
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
    """CUDA kernel of ``torch.ops.fwp_rl.srwm``: y, the four parts of the state after; of every step
    s, q and k after their softmax, beta [T, B, H, 4], e [T, B, H, V + 2 K + 4]."""
    T, B, H, K = x.shape
    V = W_y.shape[1]
    state = (dW_y, dW_q, dW_k, dW_b)
    y, last = x.new_empty((T, B, H, V)), [_empty_like(dW) for dW in state]
    saved = [dW_y.new_empty((T, B, H, size)) for size in (K, K, K, 4, V + 2 * K + 4)]
    cuda_driver.launch(
        _forward_kernel(K, V),
        x,
        B * H,
        [
            *_contiguous(x, W_y, W_q, W_k, W_b, *state, reset),
            *(T, B, H, K, V),
            *(y, *last, *saved),
        ],
    )
    return y, *last, *saved


def backward(
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
    *saved_and_gradients: Tensor,
) -> tuple[Tensor, ...]:
    """CUDA kernel of ``torch.ops.fwp_rl.srwm_backward``: the gradients of x, of the four base
    weights and of the four parts of the state.

    saved_and_gradients  what ``forward`` made beside its outputs; the gradients of its outputs
    """
    T, B, H, K = x.shape
    V = W_y.shape[1]
    state = (dW_y, dW_q, dW_k, dW_b)
    dx, dinitial = _empty_like(x), [_empty_like(dW) for dW in state]
    by_column = [_empty_like(dW) for dW in state]  # of the base weights, before the sum over B
    padded, _, _, rows = _geometry(K, V)
    rooms = dW_y.new_empty((_whole(T, BACKWARD_CHUNK) + 2, B, H, rows, padded))
    cuda_driver.launch(
        _backward_kernel(K, V),
        x,
        B * H,
        [
            *_contiguous(W_y, W_q, W_k, W_b, *state, reset),
            *(T, B, H, K, V),
            *_contiguous(*saved_and_gradients),
            *(dx, *by_column, *dinitial, rooms),
        ],
    )
    return dx, *(dW.sum(0).to(x.dtype) for dW in by_column), *dinitial


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if x is None else x.contiguous() for x in tensors]


def _empty_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
