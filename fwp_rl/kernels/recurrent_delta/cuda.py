"""The recurrent-delta op on CUDA tensors, by the kernels of cuda/recurrent_delta.cuh.

The kernels are made for heads of 16, 32 and 64: K and V are padded with zeros, inside them, to the
first that is no less than both. What the inputs give, the slow matrices and y are float32 or
bfloat16; the state, what is saved and all sums are float32. The gradients of the slow matrices come
summed over time from each (b, h), and are summed over b here.
"""

from collections.abc import Iterator

from fwp_rl.kernels import cuda_driver
from fwp_rl.kernels.cuda_driver import contiguous, copy_rooms, rooms, sum_columns
from fwp_rl.kernels.inputs import Inputs, Tensors
from fwp_rl.kernels.nvrtc import Kernel
from fwp_rl.kernels.recurrent_delta import OP

__all__ = ["backward", "forward", "kernels", "kernels_for"]

SIZES = (16, 32, 64)
FORWARD_CHUNK = 8
BACKWARD_CHUNK = 16


def kernels() -> Iterator[Kernel]:
    """Every kernel that the op can launch."""
    for D in SIZES:
        yield from kernels_for(D, D)


def kernels_for(K: int, V: int) -> tuple[Kernel, ...]:
    """Those that inputs of these sizes need, forward and backward."""
    D = _padded(K, V)
    return _forward_kernel(D), _backward_kernel(D)


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


def forward(inputs: Inputs, results: Tensors) -> None:
    """CUDA kernel of ``torch.ops.fwp_rl.recurrent_delta``."""
    *steps, R_q, R_k, R_v, r_b, W, y_prev, reset = inputs
    T, B, H, K, V = OP.sizes(inputs)
    cuda_driver.launch(
        _forward_kernel(_padded(K, V)),
        steps[0],
        B * H,
        [
            *contiguous(R_q, R_k, R_v, r_b, W, reset),
            *(T, B, H, K, V),
            *contiguous(*steps, y_prev),
            *results,
        ],
    )


def backward(
    inputs: Inputs, saved: Tensors, cotangents: Tensors, gradients: Tensors, horizon: int
) -> None:
    """CUDA kernel of ``torch.ops.fwp_rl.recurrent_delta_backward``."""
    xq, *_, R_q, R_k, R_v, r_b, W, _, reset = inputs
    of_steps, of_slow, of_state = gradients[:4], gradients[4:8], gradients[8:]
    T, B, H, K, V = OP.sizes(inputs)
    D = _padded(K, V)
    steps = rooms(W.dtype, of_steps)
    slow = [W.new_empty((B, *R.shape)) for R in of_slow]
    starts = W.new_empty(((T - 1) // BACKWARD_CHUNK + 1, B, H, D, D))
    cuda_driver.launch(
        _backward_kernel(D),
        xq,
        B * H,
        [
            *contiguous(R_q, R_k, R_v, r_b, W, reset),
            *(T, B, H, K, V, horizon),
            *contiguous(*saved, *cotangents),
            *(*steps, *of_state, *slow, starts),
        ],
    )
    copy_rooms(steps, of_steps)
    sum_columns(slow, of_slow)
