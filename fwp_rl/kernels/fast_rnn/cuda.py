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
from fwp_rl.kernels.fast_weight import cuda as fast_weight_cuda
from fwp_rl.kernels.nvrtc import Kernel

__all__ = ["backward", "backward_gates", "forward", "forward_gates", "gate_kernels", "kernels"]

SIZES = (16, 32, 64)
FORWARD_CHUNK = 8
BACKWARD_CHUNK = 16


def kernels() -> Iterator[Kernel]:
    """Every kernel of cuda/fast_rnn.cuh that the op can launch."""
    yield from gate_kernels(1)


def gate_kernels(gates: int) -> Iterator[Kernel]:
    """``kernels`` of an op with so many gates."""
    for V in SIZES:
        yield _forward_kernel(gates, V)
        yield _backward_kernel(gates, V)


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


def forward(
    z: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    R: Tensor,
    y_prev: Tensor,
    reset: Tensor | None,
    query: str,
    output: str,
) -> tuple[Tensor, ...]:
    """CUDA kernel of ``torch.ops.fwp_rl.fast_rnn``: y, the R and the y after; of every step the
    query, u and, if it is a softmax, y."""
    softmax = output == "softmax"
    y, R, y_prev, _, queries, u, kept, _ = forward_gates(
        z, k, v, beta, R, y_prev, None, reset, query == "softmax", softmax
    )
    return y, R, y_prev, queries, u, kept


def backward(
    z: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    R: Tensor,
    y_prev: Tensor,
    reset: Tensor | None,
    query: str,
    output: str,
    queries: Tensor,
    u: Tensor,
    softmax: Tensor,
    dy: Tensor,
    dR: Tensor,
    dy_last: Tensor,
) -> tuple[Tensor, ...]:
    """CUDA kernel of ``torch.ops.fwp_rl.fast_rnn_backward``: the gradients of z, k, v, beta, R and
    y_prev."""
    kept = softmax if output == "softmax" else None
    return backward_gates(
        k, v, beta, R, None, reset, query == "softmax", output == "softmax",
        queries, u, kept, None, dy, dR, dy_last, None,
    )[:-1]  # fmt: skip


def forward_gates(
    z: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    R: Tensor,
    h: Tensor,
    c: Tensor | None,
    reset: Tensor | None,
    softmax_query: bool,
    softmax_output: bool,
) -> tuple[Tensor, ...]:
    """y, the R, h and c after; of every step the query, u, the gates and c.

    The shapes are those of either op. The fast RNN has no c: it is None, and the c after and of
    every step are empty; its "gates" are y where that is a softmax, else empty.
    """
    T, (B, H, V) = len(z), h.shape
    steps, lstm = (T, B, H, V), c is not None
    shapes = {
        "R": R.shape,
        "h": h.shape,
        "c": h.shape if lstm else None,
        "queries": steps,
        "u": z.shape,
        "gates": z.shape if lstm or softmax_output else None,
        "cells": steps if lstm else None,
    }
    results = [None if shape is None else R.new_empty(shape) for shape in shapes.values()]
    y = z.new_empty(steps)
    cuda_driver.launch(
        _forward_kernel(3 if lstm else 1, V),
        z,
        B * H,
        [
            *_contiguous(z, k, v, beta, R, h, c, reset),
            *(softmax_query, softmax_output, T, B, H, V),
            *(y, *results),
        ],
    )
    return y, *(R.new_empty(0) if x is None else x for x in results)


def backward_gates(
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    R: Tensor,
    c: Tensor | None,
    reset: Tensor | None,
    softmax_query: bool,
    softmax_output: bool,
    queries: Tensor,
    u: Tensor,
    gates: Tensor | None,
    cells: Tensor | None,
    dy: Tensor,
    dR: Tensor,
    dh: Tensor,
    dc: Tensor | None,
) -> tuple[Tensor, ...]:
    """The gradients of z, k, v, beta, R, h and c; arguments, and what is missing, as in
    ``forward_gates``."""
    T, B, H, V = dy.shape
    dtype, shape, gate_count = k.dtype, k.shape, k[0, 0].numel() // (H * V)
    k, v, beta, dy = (x.to(R.dtype) for x in (k, v, beta, dy))
    dz, dh_0 = R.new_empty(shape), R.new_empty(dh.shape)
    dc_0 = R.new_empty(0 if dc is None else dc.shape)
    chunks = (T - 1) // BACKWARD_CHUNK + 1
    starts = R.new_empty((chunks, B, H, gate_count, _padded(V), _padded(V)))
    cuda_driver.launch(
        _backward_kernel(gate_count, V),
        k,
        B * H,
        [
            *_contiguous(k, beta, R, c, reset),
            *(softmax_query, softmax_output, T, B, H, V),
            *_contiguous(queries, u, gates, cells, dy, dh, dc),
            *(dz, dh_0, None if dc is None else dc_0, starts),
        ],
    )
    reads = queries.unsqueeze(2).expand(T, B, gate_count, H, V)
    q, k, v, u, da = (x.reshape(T, B, gate_count * H, V) for x in (reads, k, v, u, dz))
    R_0, dR = (x.reshape(B, gate_count * H, V, V) for x in (R, dR))
    _, dk, dv, dbeta, dR, _ = fast_weight_cuda.backward(
        q, k, v, beta.reshape(T, B, gate_count * H), R_0, None, reset, "delta", u, da, dR
    )
    gradients = (dz, dk.view(shape), dv.view(shape), dbeta.view(beta.shape))
    return *(x.to(dtype) for x in gradients), dR.view(R.shape), dh_0, dc_0


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if x is None else x.contiguous() for x in tensors]
