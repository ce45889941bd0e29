"""The fast-RNN op, and the kernels that it shares with the fast LSTM, on CUDA tensors:
cuda/fast_rnn.cuh.

The kernels are made for V of 16, 32 and 64; sizes between are padded with zeros inside them. z, k,
v, beta and y are float32 or bfloat16; the state, what is saved and all sums are float32. Backward,
one kernel finds the gradients dz along the chain of steps; with them given, every matrix is a fast
weight memory that was read with the queries, and the backward pass of that op does the rest.
"""

from collections.abc import Iterator

from torch import Tensor

from fwp_rl.kernels import cuda_driver
from fwp_rl.kernels.cuda_driver import contiguous, copy_rooms, rooms
from fwp_rl.kernels.fast_weight import cuda as fast_weight_cuda
from fwp_rl.kernels.inputs import Inputs, Tensors
from fwp_rl.kernels.nvrtc import Kernel

__all__ = [
    "backward",
    "backward_gates",
    "forward",
    "forward_gates",
    "gate_kernels",
    "gate_kernels_for",
    "kernels",
    "kernels_for",
]

SIZES = (16, 32, 64)
FORWARD_CHUNK = 8
BACKWARD_CHUNK = 16


def kernels() -> Iterator[Kernel]:
    """Every kernel of cuda/fast_rnn.cuh that the op can launch."""
    yield from gate_kernels(1)


def kernels_for(V: int) -> tuple[Kernel, ...]:
    """Those that inputs of this size need, forward and backward."""
    return gate_kernels_for(1, V)


def gate_kernels(gates: int) -> Iterator[Kernel]:
    """``kernels`` of an op with so many gates."""
    for V in SIZES:
        yield _forward_kernel(gates, V)
        yield _backward_kernel(gates, V)


def gate_kernels_for(gates: int, V: int) -> tuple[Kernel, ...]:
    """``kernels_for`` of an op with so many gates; the backward pass ends in fast_weight's."""
    fast_weight = fast_weight_cuda.kernels_for(V, V)
    return _forward_kernel(gates, V), _backward_kernel(gates, V), *fast_weight


def _forward_kernel(gates: int, V: int) -> Kernel:
    V, threads, chunk = _padded(V), _threads(gates, V), FORWARD_CHUNK
    return Kernel(
        "fast_rnn.cuh",
        "fast_rnn_forward",
        template=(gates, V, threads, chunk),
        threads=threads,
        shared=gates * chunk * (3 * V + 1) + chunk + (1 + gates) * V,
    )


def _backward_kernel(gates: int, V: int) -> Kernel:
    V, threads, chunk = _padded(V), _threads(gates, V), BACKWARD_CHUNK
    cells = chunk + 1 if gates == 3 else 1
    return Kernel(
        "fast_rnn.cuh",
        "fast_rnn_backward",
        template=(gates, V, threads, chunk),
        threads=threads,
        shared=gates * (chunk * (3 * V + 2) + 2 * V) + chunk * (2 * V + 1) + cells * V,
    )


def _padded(size: int) -> int:
    return next(padded for padded in SIZES if size <= padded)


def _threads(gates: int, V: int) -> int:
    """A warp or two a gate, which leaves each thread at most 64 numbers of a matrix to hold."""
    return gates * max(32, _padded(V))


def forward(inputs: Inputs, results: Tensors) -> None:
    """CUDA kernel of ``torch.ops.fwp_rl.fast_rnn``."""
    *steps_and_state, reset, query, output = inputs
    y, R_last, y_last, queries, u, softmax = results
    forward_gates(
        (*steps_and_state, None),
        reset,
        query == "softmax",
        output == "softmax",
        (y, R_last, y_last, None, queries, u, softmax, None),
    )


def backward(
    inputs: Inputs, saved: Tensors, cotangents: Tensors, gradients: Tensors, horizon: int
) -> None:
    """CUDA kernel of ``torch.ops.fwp_rl.fast_rnn_backward``."""
    _, k, v, beta, R, _, reset, query, output = inputs
    backward_gates(
        (k, v, beta, R, None),
        reset,
        query == "softmax",
        output == "softmax",
        (*saved, None),
        (*cotangents, None),
        (*gradients, None),
        horizon,
    )


def forward_gates(
    inputs: Tensors,
    reset: Tensor | None,
    softmax_query: bool,
    softmax_output: bool,
    results: Tensors,
) -> None:
    """Fill the results of either op.

    inputs   z, k, v, beta, R, h, c
    results  y, the R, h and c after; of every step the query, u, the gates and c

    The fast RNN has no c: it is None, and so are the c after and that of every step; its "gates"
    are y where that is a softmax, else empty.
    """
    z, y = inputs[0], results[0]
    T, B, H, V = y.shape
    cuda_driver.launch(
        _forward_kernel(z[0, 0].numel() // (H * V), V),
        z,
        B * H,
        [
            *contiguous(*inputs, reset),
            *(softmax_query, softmax_output, T, B, H, V),
            *contiguous(*results),
        ],
    )


def backward_gates(
    inputs: Tensors,
    reset: Tensor | None,
    softmax_query: bool,
    softmax_output: bool,
    saved: Tensors,
    cotangents: Tensors,
    gradients: Tensors,
    horizon: int,
) -> None:
    """Fill the gradients of either op.

    inputs      k, v, beta, R, c
    saved       of every step the query, u, the gates and c
    cotangents  of y and of the R, h and c after
    gradients   of z, k, v, beta, R, h and c

    What the fast RNN has not is None, or empty, as in ``forward_gates``.
    """
    k, v, beta, R, c = inputs
    queries, u, *_ = saved
    dy, dR, dh, dc = cotangents
    *of_steps, dR_0, dh_0, dc_0 = gradients
    T, B, H, V = dy.shape
    G = k[0, 0].numel() // (H * V)
    k, v, beta, dy = (x.to(R.dtype) for x in (k, v, beta, dy))
    dz, *_ = made = rooms(R.dtype, of_steps)
    starts = R.new_empty(((T - 1) // BACKWARD_CHUNK + 1, B, H, G, _padded(V), _padded(V)))
    cuda_driver.launch(
        _backward_kernel(G, V),
        k,
        B * H,
        [
            *contiguous(k, beta, R, c, reset),
            *(softmax_query, softmax_output, T, B, H, V, horizon),
            *contiguous(*saved, dy, dh, dc),
            *(dz, dh_0, dc_0, starts),
        ],
    )
    # every matrix is a memory of its own, a head: [T, B, G H, V], [B, G H, V, V]
    reads = queries.unsqueeze(2).expand(T, B, G, H, V)
    q, k, v, u, da, dk, dv = (x.reshape(T, B, G * H, V) for x in (reads, k, v, u, *made[:3]))
    beta, dbeta = (x.reshape(T, B, G * H) for x in (beta, made[3]))
    R, dR, dR_0 = (x.reshape(B, G * H, V, V) for x in (R, dR, dR_0))
    fast_weight_cuda.backward(
        (q, k, v, beta, R, None, reset, "delta"),
        (u,),
        (da, dR),
        (R.new_empty(q.shape), dk, dv, dbeta, dR_0, R.new_empty(0)),
        horizon,
    )
    copy_rooms(made, of_steps)
