"""Arithmetic that numba kernels share: vectors, matrices, softmax, exponentials, resets.

A part of kernels is ``inlined`` where it adds up numbers, so that their order is the kernel's own
(see there); what only moves numbers is a ``part``. numba's slice assignments are slow, and slow to
compile, hence the loops.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from fwp_rl.kernels import horizon
from fwp_rl.kernels.numba_runtime import inlined, part

__all__ = [
    "clear",
    "clear_matrix",
    "copy",
    "copy_matrix",
    "cuts",
    "dot",
    "exp",
    "last_resets",
    "sigmoid",
    "softmax",
    "softmax_adjoint",
]

# The kernels are numba's dialect.
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

cuts = inlined(horizon.cuts)


@part
def copy(source, target):
    for j in range(source.size):
        target[j] = source[j]


@part
def copy_matrix(source, target):
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            target[i, j] = source[i, j]


@part
def clear(x):
    for j in range(x.size):
        x[j] = 0


@part
def clear_matrix(x):
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[i, j] = 0


@inlined
def dot(x, y):
    total = x.dtype.type(0)
    for j in range(x.size):
        total += x[j] * y[j]
    return total


@inlined
def softmax(x, y):
    """y becomes the softmax of x; the two may be one."""
    peak = x[0]
    for j in range(x.size):
        peak = max(peak, x[j])
    total = x.dtype.type(0)
    for j in range(x.size):
        y[j] = exp(x[j] - peak)
        total += y[j]
    for j in range(x.size):
        y[j] /= total


@inlined
def softmax_adjoint(y, dy, dx):
    """dx becomes the gradient of what y is the softmax of; dx and dy may be one."""
    mean = dot(y, dy)
    for j in range(y.size):
        dx[j] = y[j] * (dy[j] - mean)


@inlined
def sigmoid(x):
    one = x.dtype.type(1)
    for j in range(x.size):
        x[j] = one / (one + exp(-x[j]))


@part
def last_resets(b, T, reset):
    """The last step up to every step that began with a reset, -1 where there was none."""
    last = np.full(T, -1)
    for t in range(T):
        if reset.size > 0 and reset[t, b]:
            last[t] = t
        elif t > 0:
            last[t] = last[t - 1]
    return last


def exp(x: Any) -> Any:
    """e^x. In a kernel float32 goes through arithmetic alone, so that a loop over it runs in
    vectors (numba calls libm number by number, several times as slow): within 4e-7 of the truth,
    relative; 0 below -87.7 and infinite above 88.4, NaN for NaN. float64 is numpy's.

    Cephes' expf: x = n ln 2 + r with |r| <= ln 2 / 2, e^r by a polynomial, 2^n by its bits.
    """
    return np.exp(x)


def _exp_float32(x: Any) -> Any:
    f, i = np.float32, np.int32
    if x == x:
        x = min(max(x, f(-88)), f(89))  # n = -127 and 128, whose bits are those of 0 and infinity
    n = np.floor(x * f(1.44269504) + f(0.5))
    r = x - n * f(0.693147182)
    p = f(1.9875691500e-4)
    p = p * r + f(1.3981999507e-3)
    p = p * r + f(8.3334519073e-3)
    p = p * r + f(4.1665795894e-2)
    p = p * r + f(1.6666665459e-1)
    p = p * r + f(5.0000001201e-1)
    return (p * r * r + r + f(1)) * i((i(n) + i(127)) << i(23)).view(f)


def _exp_float64(x: Any) -> Any:
    return np.exp(x)


@overload(exp, jit_options={"fastmath": {"contract"}, "error_model": "numpy", "forceinline": True})
def _exp(x: Any) -> Any:
    return _exp_float32 if x == types.float32 else _exp_float64
