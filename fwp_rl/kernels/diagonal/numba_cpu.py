"""The diagonal op on CPU: one fused loop per column, forward and backward.

Adjoint equations, G the gradient of h, a* the conjugate. Back in time, from G = dL/dh_T:

    G += dy;  dx = G;  G <- a* G        (0 across a reset or a cut)

then forth in time, h replayed from the initial state (0 where reset), with G = dx:

    da = G h*;  h <- a h + x

Nothing is kept between forward and backward. The gradient of an a that all steps share is summed up
for each column by itself, and then over the columns: in one order.

One thread runs both kernels: there is little to compute beside what is read, and half as much to
compile. They see one shape: N = H V numbers in C parts, 1 of real numbers and 2 of complex ones,
and P rows of a, one for all or one for each step of each column. A reset that was not given is
empty.
"""

import numpy as np
import torch

from fwp_rl.kernels.diagonal import OP
from fwp_rl.kernels.inputs import Inputs, Tensors
from fwp_rl.kernels.numba_math import clear_matrix, copy_matrix, cuts
from fwp_rl.kernels.numba_runtime import compiled, inlined, launch, views

__all__ = ["backward", "forward"]

# The kernels are numba's dialect.
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

_AXES = "TBCNPQ"  # Q: rows of a's gradient, one for each column where a has one for all
_inputs = views(_AXES, {"x": "T B C N", "a": "P C N", "state": "B C N", "reset": "?T B"})
_results = views(_AXES, {"y": "T B C N", "state": "B C N"})
_gradients = views(_AXES, {"x": "T B C N", "a": "Q C N", "state": "B C N"})


@inlined
def _step(a, before, x, h):
    """h becomes a before + x, or a h + x where ``before`` is None; all [C, N]."""
    old = h if before is None else before
    if a.shape[0] == 1:
        for j in range(a.shape[1]):
            h[0, j] = a[0, j] * old[0, j] + x[0, j]
        return
    for j in range(a.shape[1]):
        a_re, a_im, re, im = a[0, j], a[1, j], old[0, j], old[1, j]
        h[0, j] = a_re * re - a_im * im + x[0, j]
        h[1, j] = a_re * im + a_im * re + x[1, j]


@inlined
def _step_back(a, G):
    """G becomes a* G."""
    if a.shape[0] == 1:
        for j in range(a.shape[1]):
            G[0, j] *= a[0, j]
        return
    for j in range(a.shape[1]):
        a_re, a_im, re, im = a[0, j], a[1, j], G[0, j], G[1, j]
        G[0, j] = a_re * re + a_im * im
        G[1, j] = a_re * im - a_im * re


@inlined
def _add_product(G, h, da):
    """da += G h*"""
    if h.shape[0] == 1:
        for j in range(h.shape[1]):
            da[0, j] += G[0, j] * h[0, j]
        return
    for j in range(h.shape[1]):
        g_re, g_im, re, im = G[0, j], G[1, j], h[0, j], h[1, j]
        da[0, j] += g_re * re + g_im * im
        da[1, j] += g_im * re - g_re * im


@compiled
def _forward(zero, sizes, inputs, results):
    x, a, initial, reset = _inputs(zero, sizes, inputs)
    y, last = _results(zero, sizes, results)
    T, B, _, _, _, _ = sizes
    shared = a.shape[0] < T * B
    for b in range(B):
        for t in range(T):
            if reset.size > 0 and reset[t, b]:
                copy_matrix(x[t, b], y[t, b])
            else:
                before = initial[b] if t == 0 else y[t - 1, b]
                _step(a[0 if shared else t * B + b], before, x[t, b], y[t, b])
        copy_matrix(y[T - 1, b], last[b])


@compiled
def _backward(zero, sizes, inputs, cotangents, gradients, horizon):
    x, a, initial, reset = _inputs(zero, sizes, inputs)
    dy, dlast = _results(zero, sizes, cotangents)
    dx, da, dinitial = _gradients(zero, sizes, gradients)
    T, B, C, N, _, _ = sizes
    shared, resets = a.shape[0] < T * B, reset.size > 0
    h = np.empty((C, N), x.dtype)
    for b in range(B):
        G = dinitial[b]  # it ends as the gradient of the initial state
        copy_matrix(dlast[b], G)
        for t in range(T - 1, -1, -1):
            for c in range(C):
                for j in range(N):
                    G[c, j] += dy[t, b, c, j]
                    dx[t, b, c, j] = G[c, j]
            if cuts(t, horizon) or (resets and reset[t, b]):
                clear_matrix(G)
            else:
                _step_back(a[0 if shared else t * B + b], G)

        copy_matrix(initial[b], h)
        for t in range(T):
            if resets and reset[t, b]:
                clear_matrix(h)
            of_a = da[b if shared else t * B + b]
            if t == 0 or not shared:
                clear_matrix(of_a)
            _add_product(dx[t, b], h, of_a)
            _step(a[0 if shared else t * B + b], None, x[t, b], h)


def forward(inputs: Inputs, results: Tensors) -> None:
    """CPU kernel of ``torch.ops.fwp_rl.diagonal``."""
    launch(_forward, None, _sizes(inputs), [inputs], [results])


def backward(
    inputs: Inputs, _: Tensors, cotangents: Tensors, gradients: Tensors, horizon: int
) -> None:
    """CPU kernel of ``torch.ops.fwp_rl.diagonal_backward``."""
    x, a, *_ = inputs
    dx, da, dinitial = gradients
    parts = da if a.ndim == x.ndim else a.new_empty((x.shape[1], *a.shape))
    filled = [(dx, parts, dinitial)]
    launch(_backward, None, _sizes(inputs), [inputs, cotangents], filled, horizon)
    if parts is not da:
        torch.sum(parts, 0, out=da)


def _sizes(inputs: Inputs) -> tuple[int, ...]:
    """Of ``_AXES``."""
    x, a, *_ = inputs
    T, B, H, V = OP.sizes(inputs)
    C, P = (1 if x.ndim == 4 else 2), (T * B if a.ndim == x.ndim else 1)
    return T, B, C, H * V, P, max(P, B)
