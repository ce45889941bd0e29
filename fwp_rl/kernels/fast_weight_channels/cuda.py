"""The general form of the fast-weight op on CUDA tensors, by the kernels of cuda/fast_weight.cuh
and fast_weight_backward.cuh, which are made for K = V of 16, 32 and 64: at 128 the gradients'
vectors for each channel no longer fit in registers. Sizes between, and the
smaller of the two, are padded with zeros inside them.

q, k, v, beta, erase and log_decay are float32 or bfloat16; the state, u and all sums are float32.
"""

from collections.abc import Iterator
from functools import cache

from fwp_rl.kernels import cuda_driver
from fwp_rl.kernels.cuda_driver import contiguous, copy_rooms, rooms
from fwp_rl.kernels.fast_weight.cuda import (
    BACKWARD_CHUNK,
    FORWARD_CHUNK,
    padded,
    threads_of,
)
from fwp_rl.kernels.fast_weight_channels import OP
from fwp_rl.kernels.inputs import Inputs, Tensors
from fwp_rl.kernels.nvrtc import Kernel

__all__ = ["backward", "forward", "kernels", "kernels_for"]


SIZES = (16, 32, 64)


def kernels() -> Iterator[Kernel]:
    """Every kernel that the op can launch."""
    for size in SIZES:
        yield from kernels_for(size, size)


def kernels_for(K: int, V: int) -> tuple[Kernel, ...]:
    """Those that inputs of these sizes need, forward and backward."""
    size = padded(max(K, V))
    return _forward_kernel(size), _backward_kernel(size)


@cache
def _forward_kernel(size: int) -> Kernel:
    threads, chunk = threads_of(size, size), FORWARD_CHUNK
    return Kernel(
        "fast_weight.cuh",
        "fast_weight_channels_forward",
        template=(size, size, threads, chunk),
        threads=threads,
        shared=chunk * (5 * size + 3),
    )


@cache
def _backward_kernel(size: int) -> Kernel:
    # Vectors for each channel beside 32 numbers of the matrix in each thread would spill.
    threads, chunk = threads_of(size, size) * (2 if size > 16 else 1), BACKWARD_CHUNK
    return Kernel(
        "fast_weight_backward.cuh",
        "fast_weight_channels_backward",
        template=(size, size, threads, chunk),
        threads=threads,
        shared=chunk * (8 * size + 5) + size,
    )


def forward(inputs: Inputs, results: Tensors) -> None:
    """CUDA kernel of ``torch.ops.fwp_rl.fast_weight_channels``."""
    q, k, v, beta, state, erase, log_decay, reset, rule = inputs
    T, B, H, K, V = OP.sizes(inputs)
    cuda_driver.launch(
        kernels_for(K, V)[0],
        q,
        B * H,
        [
            *contiguous(q, k, v, beta, state, None, reset),
            *(rule == "delta", T, B, H, K, V),
            *contiguous(*results, erase, log_decay),
        ],
    )


def backward(
    inputs: Inputs, saved: Tensors, cotangents: Tensors, gradients: Tensors, horizon: int
) -> None:
    """CUDA kernel of ``torch.ops.fwp_rl.fast_weight_channels_backward``."""
    q, k, v, beta, state, erase, log_decay, reset, rule = inputs
    dq, dk, dv, dbeta, dinitial, derase, dlog_decay = gradients
    T, B, H, K, V = OP.sizes(inputs)
    dk_part, dlog = rooms(state.dtype, (dk, dlog_decay))
    cuda_driver.launch(
        kernels_for(K, V)[1],
        q,
        B * H,
        [
            *contiguous(q, k, v, beta, state, None, reset),
            *(rule == "delta", T, B, H, K, V, horizon),
            *contiguous(*saved, *cotangents),
            *(dq, dk, dv, dbeta, dinitial, None, state.new_empty(v.shape), dk_part),
            *contiguous(erase, log_decay, derase, dlog),
        ],
    )
    copy_rooms([dlog], [dlog_decay])
