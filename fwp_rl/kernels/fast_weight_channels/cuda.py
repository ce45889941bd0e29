"""The general form of the fast-weight op on CUDA tensors, by the kernels of cuda/fast_weight.cuh
and fast_weight_backward.cuh, which are made for the sizes of ``fast_weight``'s.

q, k, v, beta, erase and log_decay are float32 or bfloat16; the state, u and all sums are float32.
"""

from collections.abc import Iterator
from functools import cache
from itertools import product

from fwp_rl.kernels import cuda_driver
from fwp_rl.kernels.cuda_driver import contiguous, copy_rooms, rooms
from fwp_rl.kernels.fast_weight.cuda import (
    BACKWARD_CHUNK,
    FORWARD_CHUNK,
    SIZES,
    padded,
    threads_of,
)
from fwp_rl.kernels.fast_weight_channels import OP
from fwp_rl.kernels.inputs import Inputs, Tensors
from fwp_rl.kernels.nvrtc import Kernel

__all__ = ["backward", "forward", "kernels", "kernels_for"]


def kernels() -> Iterator[Kernel]:
    """Every kernel that the op can launch."""
    for K, V in product(SIZES, SIZES):
        yield from kernels_for(K, V)


def kernels_for(K: int, V: int) -> tuple[Kernel, ...]:
    """Those that inputs of these sizes need, forward and backward."""
    return _forward_kernel(K, V), _backward_kernel(K, V)


@cache
def _forward_kernel(K: int, V: int) -> Kernel:
    K, V, threads, chunk = padded(K), padded(V), threads_of(K, V), FORWARD_CHUNK
    return Kernel(
        "fast_weight.cuh",
        "fast_weight_channels_forward",
        template=(K, V, threads, chunk),
        threads=threads,
        shared=chunk * (4 * K + V + 3),
    )


@cache
def _backward_kernel(K: int, V: int) -> Kernel:
    K, V, threads, chunk = padded(K), padded(V), threads_of(K, V), BACKWARD_CHUNK
    return Kernel(
        "fast_weight_backward.cuh",
        "fast_weight_channels_backward",
        template=(K, V, threads, chunk),
        threads=threads,
        shared=chunk * (5 * K + 3 * V + 5) + K,
    )


def forward(inputs: Inputs, results: Tensors) -> None:
    """CUDA kernel of ``torch.ops.fwp_rl.fast_weight_channels``."""
    q, k, v, beta, state, erase, log_decay, reset, rule = inputs
    T, B, H, K, V = OP.sizes(inputs)
    cuda_driver.launch(
        _forward_kernel(K, V),
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
        _backward_kernel(K, V),
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
