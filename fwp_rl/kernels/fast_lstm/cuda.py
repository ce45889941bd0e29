"""The fast-LSTM op on CUDA tensors: the kernels are those of the fast RNN, with three gates."""

from collections.abc import Iterator

from fwp_rl.kernels.fast_rnn.cuda import (
    backward_gates,
    forward_gates,
    gate_kernels,
    gate_kernels_for,
)
from fwp_rl.kernels.inputs import Inputs, Tensors
from fwp_rl.kernels.nvrtc import Kernel

__all__ = ["backward", "forward", "kernels", "kernels_for"]


def kernels() -> Iterator[Kernel]:
    """Every kernel of cuda/fast_rnn.cuh that the op can launch."""
    yield from gate_kernels(3)


def kernels_for(V: int) -> tuple[Kernel, ...]:
    """Those that inputs of this size need, forward and backward."""
    return gate_kernels_for(3, V)


def forward(inputs: Inputs, results: Tensors) -> None:
    """CUDA kernel of ``torch.ops.fwp_rl.fast_lstm``."""
    *steps_and_R, c, h, reset = inputs
    y, R_last, c_last, h_last, *saved = results
    forward_gates((*steps_and_R, h, c), reset, True, False, (y, R_last, h_last, c_last, *saved))


def backward(
    inputs: Inputs, saved: Tensors, cotangents: Tensors, gradients: Tensors, horizon: int
) -> None:
    """CUDA kernel of ``torch.ops.fwp_rl.fast_lstm_backward``."""
    _, k, v, beta, R, c, _, reset = inputs
    dy, dR_last, dc_last, dh_last = cotangents
    *of_steps_and_R, dc, dh = gradients
    backward_gates(
        (k, v, beta, R, c),
        reset,
        True,
        False,
        saved,
        (dy, dR_last, dh_last, dc_last),
        (*of_steps_and_R, dh, dc),
        horizon,
    )
