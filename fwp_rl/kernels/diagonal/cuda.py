"""The diagonal op on CUDA tensors, by the kernels of cuda/diagonal.cuh.

A thread holds one number of the state; any number of them will do. x, a and y are float32 or
bfloat16; the state and all sums are float32.
"""

from collections.abc import Iterator

from fwp_rl.kernels import cuda_driver
from fwp_rl.kernels.cuda_driver import contiguous, copy_rooms, rooms, sum_columns
from fwp_rl.kernels.diagonal import OP
from fwp_rl.kernels.inputs import Inputs, Tensors
from fwp_rl.kernels.nvrtc import Kernel

__all__ = ["backward", "forward", "kernels", "kernels_for"]

THREADS = 128
CHUNK = 8
"""Steps whose loads are on their way at a time."""


def kernels() -> Iterator[Kernel]:
    """Every kernel that the op can launch."""
    for parts in (1, 2):
        for name in ("forward", "backward"):
            yield _kernel(name, parts)


def kernels_for(V: int) -> tuple[Kernel, ...]:
    """The same: inputs of any size V need them."""
    return tuple(kernels())


def _kernel(name: str, parts: int) -> Kernel:
    """parts  1 of real numbers, 2 of complex ones"""
    template = (parts, THREADS, CHUNK)
    return Kernel("diagonal.cuh", f"diagonal_{name}", template=template, threads=THREADS)


def forward(inputs: Inputs, results: Tensors) -> None:
    """CUDA kernel of ``torch.ops.fwp_rl.diagonal``."""
    _launch("forward", inputs, [], contiguous(*results))


def backward(
    inputs: Inputs, _: Tensors, cotangents: Tensors, gradients: Tensors, horizon: int
) -> None:
    """CUDA kernel of ``torch.ops.fwp_rl.diagonal_backward``."""
    x, a, state, _ = inputs
    dx, da, dinitial = gradients
    shared = a.ndim < x.ndim
    room, of_a = rooms(state.dtype, (dx, da))
    if shared:
        of_a = state.new_empty((x.shape[1], *a.shape))
    _launch("backward", inputs, [horizon], [*contiguous(*cotangents), room, of_a, dinitial])
    if shared:
        sum_columns([of_a], [da])
    copy_rooms([room, da if shared else of_a], [dx, da])


def _launch(name: str, inputs: Inputs, options: list[int], others: Tensors) -> None:
    x, a, *_ = inputs
    T, B, H, V = OP.sizes(inputs)
    cuda_driver.launch(
        _kernel(name, 1 if x.ndim == 4 else 2),
        x,
        B * -(-H * V // THREADS),
        [*contiguous(*inputs), a.ndim < x.ndim, T, B, H * V, *options, *others],
    )
