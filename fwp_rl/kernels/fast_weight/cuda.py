"""The fast-weight op on CUDA tensors, by the kernels of cuda/fast_weight.cuh.

The kernels are made for K and V of 16, 32, 64 and 128; sizes between are padded with zeros inside
them. q, k, v, beta and log_decay are float32 or bfloat16; the state, u and all sums are float32.
"""

from collections.abc import Iterator
from functools import cache
from itertools import product

import torch
from torch import Tensor

from fwp_rl.kernels import cuda_driver
from fwp_rl.kernels.nvrtc import Kernel

__all__ = ["backward", "forward", "kernels"]

SIZES = (16, 32, 64, 128)
FORWARD_CHUNK = 16
BACKWARD_CHUNK = 8


def kernels() -> Iterator[Kernel]:
    """Every kernel that the op can launch."""
    for K, V in product(SIZES, SIZES):
        yield _forward_kernel(K, V)
        yield _backward_kernel(K, V)


@cache
def _forward_kernel(K: int, V: int) -> Kernel:
    K, V, threads, chunk = _padded(K), _padded(V), _threads(K, V), FORWARD_CHUNK
    return Kernel(
        "fast_weight.cuh",
        "fast_weight_forward",
        template=(K, V, threads, chunk),
        threads=threads,
        shared=chunk * (2 * K + V + 3),
    )


@cache
def _backward_kernel(K: int, V: int) -> Kernel:
    K, V, threads, chunk = _padded(K), _padded(V), _threads(K, V), BACKWARD_CHUNK
    return Kernel(
        "fast_weight.cuh",
        "fast_weight_backward",
        template=(K, V, threads, chunk),
        threads=threads,
        shared=chunk * (3 * K + 3 * V + 5) + threads // 32,
    )


def _padded(size: int) -> int:
    return next(padded for padded in SIZES if size <= padded)


def _threads(K: int, V: int) -> int:
    """As many as leave each at most 32 numbers of the matrix to hold in registers."""
    return max(32, _padded(K) * _padded(V) // 32)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    state: Tensor,
    log_decay: Tensor | None,
    reset: Tensor | None,
    rule: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """CUDA kernel of ``torch.ops.fwp_rl.fast_weight``: y, the state after, u (empty for sum)."""
    y, last = _empty_like(v), _empty_like(state)
    u = state.new_empty(v.shape if rule == "delta" else (0,))
    T, B, H, K = q.shape
    V = v.shape[3]
    cuda_driver.launch(
        _forward_kernel(K, V),
        q,
        B * H,
        [
            *_contiguous(q, k, v, beta, state, log_decay, reset),
            *(rule == "delta", T, B, H, K, V),
            *(y, last, u if rule == "delta" else None),
        ],
    )
    return y, last, u


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    state: Tensor,
    log_decay: Tensor | None,
    reset: Tensor | None,
    rule: str,
    u: Tensor,
    dy: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, ...]:
    """CUDA kernel of ``torch.ops.fwp_rl.fast_weight_backward``: the gradients of q, k, v, beta,
    state and log_decay (empty where an input was not given)."""
    delta = rule == "delta"
    T, B, H, K = q.shape
    V = v.shape[3]
    dq, dk, dv, dinitial = map(_empty_like, (q, k, v, state))
    dbeta = q.new_empty((T, B, H))
    dlog_decay = None if log_decay is None else state.new_empty((T, B, H))
    p = state.new_empty(v.shape)
    dk_part = dk if dk.dtype == state.dtype else state.new_empty(k.shape)
    cuda_driver.launch(
        _backward_kernel(K, V),
        q,
        B * H,
        [
            *_contiguous(q, k, v, beta, state, log_decay, reset),
            *(delta, T, B, H, K, V),
            *_contiguous(u if delta else None, dy, dlast),
            *(dq, dk, dv, dbeta, dinitial, dlog_decay, p, dk_part),
        ],
    )
    nothing = q.new_empty((0,))
    return (
        *(dq, dk, dv),
        nothing if beta is None else dbeta,
        dinitial,
        nothing.clone() if dlog_decay is None else dlog_decay.to(q.dtype),
    )


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if x is None else x.contiguous() for x in tensors]


def _empty_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
