"""The fast-LSTM op on CPU: its equations, adjoints and kernels are in ``fast_rnn.numba_gates``."""

from fwp_rl.kernels.fast_lstm import OP
from fwp_rl.kernels.fast_rnn.numba_gates import backward_gates, forward_gates
from fwp_rl.kernels.inputs import Inputs, Tensors

__all__ = ["backward", "forward"]


def forward(inputs: Inputs, results: Tensors) -> None:
    """CPU kernel of ``torch.ops.fwp_rl.fast_lstm``."""
    *steps_and_R, c, h, reset = inputs
    y, R, c_last, h_last, *saved = results
    forward_gates(
        (*OP.sizes(inputs), 3),
        (*steps_and_R, h, c, reset),
        (y, R, h_last, c_last, *saved),
        True,
        False,
    )


def backward(
    inputs: Inputs, saved: Tensors, cotangents: Tensors, gradients: Tensors, horizon: int
) -> None:
    """CPU kernel of ``torch.ops.fwp_rl.fast_lstm_backward``."""
    _, k, _, beta, R, c, _, reset = inputs
    dy, dR, dc_last, dh_last = cotangents
    *of_steps_and_R, dc, dh = gradients
    backward_gates(
        (*OP.sizes(inputs), 3),
        (k, beta, R, c, reset),
        (*saved, dy, dR, dh_last, dc_last),
        (*of_steps_and_R, dh, dc),
        True,
        False,
        horizon,
    )
