"""The fast-weight op on CUDA tensors, by the kernels of cuda/fast_weight.cuh and
fast_weight_backward.cuh.

The kernels are made for K and V of 16, 32, 64 and 128; sizes between are padded with zeros inside
them. q, k, v, beta and log_decay are float32 or bfloat16; the state, u and all sums are float32.
"""

from collections.abc import Iterator
from functools import cache
from itertools import product

from fwp_rl.kernels import cuda_driver
from fwp_rl.kernels.cuda_driver import contiguous, copy_rooms, rooms
from fwp_rl.kernels.fast_weight import OP
from fwp_rl.kernels.inputs import Inputs, Tensors
from fwp_rl.kernels.nvrtc import Kernel

__all__ = [
    "BACKWARD_CHUNK",
    "FORWARD_CHUNK",
    "SIZES",
    "backward",
    "forward",
    "kernels",
    "kernels_for",
    "padded",
    "threads_of",
]

SIZES = (16, 32, 64, 128)
FORWARD_CHUNK = 16
BACKWARD_CHUNK = 8


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
        "fast_weight_forward",
        template=(K, V, threads, chunk),
        threads=threads,
        shared=chunk * (2 * K + V + 3),
    )


@cache
def _backward_kernel(K: int, V: int) -> Kernel:
    K, V, threads, chunk = padded(K), padded(V), threads_of(K, V), BACKWARD_CHUNK
    return Kernel(
        "fast_weight_backward.cuh",
        "fast_weight_backward",
        template=(K, V, threads, chunk),
        threads=threads,
        shared=chunk * (3 * K + 3 * V + 5) + threads // 32,
    )


def padded(size: int) -> int:
    """The size that a kernel is made for."""
    return next(made for made in SIZES if size <= made)


def threads_of(K: int, V: int) -> int:
    """As many as leave each at most 32 numbers of the matrix to hold in registers."""
    return max(32, padded(K) * padded(V) // 32)


def forward(inputs: Inputs, results: Tensors) -> None:
    """CUDA kernel of ``torch.ops.fwp_rl.fast_weight``."""
    *tensors, rule = inputs
    T, B, H, K, V = OP.sizes(inputs)
    cuda_driver.launch(
        _forward_kernel(K, V),
        inputs[0],
        B * H,
        [*contiguous(*tensors), rule == "delta", T, B, H, K, V, *contiguous(*results)],
    )


def backward(
    inputs: Inputs, saved: Tensors, cotangents: Tensors, gradients: Tensors, horizon: int
) -> None:
    """CUDA kernel of ``torch.ops.fwp_rl.fast_weight_backward``."""
    *tensors, rule = inputs
    q, _, v, beta, state, *_ = tensors
    dq, dk, dv, dbeta, dinitial, dlog_decay = gradients
    T, B, H, K, V = OP.sizes(inputs)
    if beta is None:
        dbeta = q.new_empty((T, B, H))
    dk_part, dlog = rooms(state.dtype, (dk, dlog_decay))
    cuda_driver.launch(
        _backward_kernel(K, V),
        q,
        B * H,
        [
            *(*contiguous(*tensors), rule == "delta", T, B, H, K, V, horizon),
            *contiguous(*saved, *cotangents),
            *(dq, dk, dv, dbeta, dinitial, *contiguous(dlog)),
            *(state.new_empty(v.shape), dk_part),
        ],
    )
    copy_rooms([dlog], [dlog_decay])
