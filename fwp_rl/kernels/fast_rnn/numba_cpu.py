"""The fast-RNN op on CPU: its equations, adjoints and kernels are in ``numba_gates``."""

from fwp_rl.kernels.fast_rnn import OP
from fwp_rl.kernels.fast_rnn.numba_gates import backward_gates, forward_gates
from fwp_rl.kernels.inputs import Inputs, Tensors

__all__ = ["backward", "forward"]


def forward(inputs: Inputs, results: Tensors) -> None:
    """CPU kernel of ``torch.ops.fwp_rl.fast_rnn``."""
    *steps_and_state, reset, query, output = inputs
    y, R, y_last, queries, u, softmax = results
    forward_gates(
        (*OP.sizes(inputs), 1),
        (*steps_and_state, None, reset),
        (y, R, y_last, None, queries, u, softmax, None),
        query == "softmax",
        output == "softmax",
    )


def backward(
    inputs: Inputs, saved: Tensors, cotangents: Tensors, gradients: Tensors, horizon: int
) -> None:
    """CPU kernel of ``torch.ops.fwp_rl.fast_rnn_backward``."""
    _, k, _, beta, R, _, reset, query, output = inputs
    backward_gates(
        (*OP.sizes(inputs), 1),
        (k, beta, R, None, reset),
        (*saved, None, *cotangents, None),
        (*gradients, None),
        query == "softmax",
        output == "softmax",
        horizon,
    )
