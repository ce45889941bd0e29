"""The self-referential weight matrix on CUDA tensors, by the kernels of cuda/srwm.cuh.

The kernels are made for K of 16, 32 and 64 and for V of K and 64; sizes between are padded with
zeros inside them. x, the base weights and y are float32 or bfloat16; the state, what is saved and
all sums are float32.
"""

from collections.abc import Iterator

import torch

from fwp_rl.kernels import cuda_driver
from fwp_rl.kernels.cuda_driver import contiguous, sum_columns
from fwp_rl.kernels.inputs import Inputs, Tensors
from fwp_rl.kernels.nvrtc import Kernel
from fwp_rl.kernels.srwm import OP

__all__ = ["backward", "forward", "kernels", "kernels_for"]

SIZES = ((16, 16), (16, 64), (32, 32), (32, 64), (64, 64))
FORWARD_CHUNK = 16
BACKWARD_CHUNK = 16


def kernels() -> Iterator[Kernel]:
    """Every kernel that the op can launch."""
    for K, V in SIZES:
        yield from kernels_for(K, V)


def kernels_for(K: int, V: int) -> tuple[Kernel, ...]:
    """Those that inputs of these sizes need, forward and backward."""
    return _forward_kernel(K, V), _backward_kernel(K, V)


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


def forward(inputs: Inputs, results: Tensors) -> None:
    """CUDA kernel of ``torch.ops.fwp_rl.srwm``."""
    x, (T, B, H, K, V) = inputs[0], OP.sizes(inputs)
    cuda_driver.launch(
        _forward_kernel(K, V),
        x,
        B * H,
        [*contiguous(*inputs), T, B, H, K, V, *results],
    )


def backward(
    inputs: Inputs, saved: Tensors, cotangents: Tensors, gradients: Tensors, horizon: int
) -> None:
    """CUDA kernel of ``torch.ops.fwp_rl.srwm_backward``."""
    x, (T, B, H, K, V) = inputs[0], OP.sizes(inputs)
    dx, *of_base_and_initial = gradients
    of_base, dinitial = of_base_and_initial[:4], of_base_and_initial[4:]
    by_column = [torch.empty_like(dW) for dW in dinitial]  # of the base weights, to be summed
    padded, _, _, rows = _geometry(K, V)
    states = dinitial[0].new_empty((_whole(T, BACKWARD_CHUNK) + 2, B, H, rows, padded))
    cuda_driver.launch(
        _backward_kernel(K, V),
        x,
        B * H,
        [
            *(*contiguous(*inputs[1:]), T, B, H, K, V, horizon),
            *contiguous(*saved, *cotangents),
            *(dx, *by_column, *dinitial, states),
        ],
    )
    sum_columns(by_column, of_base)
