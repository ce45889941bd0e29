"""The fast-weight op on CPU: one fused loop per head, forward and backward.

Adjoint equations, with W' = a W the state after reset and decay, u the error that was written
(v for the sum rule), G the gradient of W. Backward in time, from G = dL/dW_T:

    G  += dy q^T;  p = G k;  dv = b p;  dbeta = p.u;  dk = b G^T u
    G  <- a (G - dv k^T)  [delta]   or   a G  [sum]           (0 across a reset)

then forward in time, replaying W from the initial state:

    dk -= W'^T dv  [delta];   W = W' + b u k^T;   dq = W^T dy

dL/dlog a_t is s_{t-1} = <G_{t-1}, W_{t-1}>, which runs backward by s_{t-1} = s_t + dq.q - dv.v
from s_T = <G_T, W_T> and restarts at 0 across a reset: no matrix work. Between forward and
backward only u is kept; W is replayed, never un-done, for a reset or a decay cannot be un-done.

Both reads of a step share one sweep over the old state: W q = W' q + b (k.q) u. Sizes are
run-time values on purpose: as constants, LLVM unrolls the inner loops before it vectorises them.
Tensors come as the addresses of their memory, 0 for what is not given; such arrays are empty.
"""

import numba
import numpy as np
import torch
from torch import Tensor

from fwp_rl.kernels.numba_runtime import (
    addresses,
    array_at,
    compiled,
    compiled_parallel,
    contiguous,
    launch,
)

__all__ = ["backward", "forward"]

ZERO = {torch.float32: np.float32(0), torch.float64: np.float64(0)}
"""Tells a kernel the type of all its numbers."""

# The kernels are numba's dialect.
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False


@compiled
def _inputs(zero, sizes, where):
    T, B, H, K, V = sizes
    q, k, v, beta, initial, log_decay, reset = where
    return (
        array_at(q, (T, B, H, K), zero),
        array_at(k, (T, B, H, K), zero),
        array_at(v, (T, B, H, V), zero),
        array_at(beta, (T if beta else 0, B, H), zero),
        array_at(initial, (B, H, V, K), zero),
        array_at(log_decay, (T if log_decay else 0, B, H), zero),
        array_at(reset, (T if reset else 0, B), False),
    )


@compiled
def _outputs(zero, sizes, where):
    T, B, H, K, V = sizes
    y, final, u = where
    return (
        array_at(y, (T, B, H, V), zero),
        array_at(final, (B, H, V, K), zero),
        array_at(u, (T, B, H, V), zero),
    )


@compiled
def _saved(zero, sizes, where):
    T, B, H, K, V = sizes
    u, dy, dfinal = where
    return (
        array_at(u, (T, B, H, V), zero),
        array_at(dy, (T, B, H, V), zero),
        array_at(dfinal, (B, H, V, K), zero),
    )


@compiled
def _gradients(zero, sizes, where):
    T, B, H, K, V = sizes
    dq, dk, dv, dbeta, dinitial, dlog_decay = where
    return (
        array_at(dq, (T, B, H, K), zero),
        array_at(dk, (T, B, H, K), zero),
        array_at(dv, (T, B, H, V), zero),
        array_at(dbeta, (T, B, H), zero),
        array_at(dinitial, (B, H, V, K), zero),
        array_at(dlog_decay, (T, B, H), zero),
    )


@compiled
def _copy(source, target):  # numba's slice assignment is not vectorised
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            target[i, j] = source[i, j]


@compiled
def _step(before, W, vectors, beta, a, delta):
    """Make W what it is one step later, or what ``before`` is, where that is not None.

    An acting step is bound by memory, so its state is read once; in place, W must be one array.
    """
    qt, kt, vt, yt, ut = vectors
    old = W if before is None else before
    V, K = W.shape
    zero = qt.dtype.type(0)
    kq = zero
    for j in range(K):
        kq += kt[j] * qt[j]
    for i in range(V):
        wk, wq = zero, zero
        for j in range(K):
            wk += old[i, j] * kt[j]
            wq += old[i, j] * qt[j]
        write = vt[i]
        if delta:
            write -= a * wk
            ut[i] = write
        write *= beta
        yt[i] = a * wq + kq * write
        for j in range(K):
            W[i, j] = a * old[i, j] + write * kt[j]


@compiled
def _forward_head(b, h, inputs, outputs, delta):
    q, k, v, beta, initial, log_decay, reset = inputs
    y, final, u = outputs
    weighted, decays, resets = beta.size > 0, log_decay.size > 0, reset.size > 0
    W = final[b, h]
    one = q.dtype.type(1)
    for t in range(q.shape[0]):
        vectors = (q[t, b, h], k[t, b, h], v[t, b, h], y[t, b, h], u[t, b, h])
        beta_t = beta[t, b, h] if weighted else one
        a = np.exp(log_decay[t, b, h]) if decays else one
        fresh = resets and reset[t, b]
        if fresh:
            W[:] = 0
        if t == 0 and not fresh:
            _step(initial[b, h], W, vectors, beta_t, a, delta)
        else:
            _step(None, W, vectors, beta_t, a, delta)


@compiled
def _backward_head(b, h, inputs, saved, gradients, delta):
    q, k, v, beta, initial, log_decay, reset = inputs
    u, dy, dfinal = saved
    dq, dk, dv, dbeta, dinitial, dlog_decay = gradients
    weighted, decays, resets = beta.size > 0, log_decay.size > 0, reset.size > 0
    G = dinitial[b, h]
    _copy(dfinal[b, h], G)
    V, K = G.shape
    T = q.shape[0]
    zero, one = q.dtype.type(0), q.dtype.type(1)
    for t in range(T - 1, -1, -1):
        a = np.exp(log_decay[t, b, h]) if decays else one
        qt, kt, ut, dyt, dkt = q[t, b, h], k[t, b, h], u[t, b, h], dy[t, b, h], dk[t, b, h]
        beta_t = beta[t, b, h] if weighted else one
        kq, pu = zero, zero
        for j in range(K):
            kq += kt[j] * qt[j]
            dkt[j] = 0
        for i in range(V):
            p = dyt[i] * kq
            for j in range(K):
                p += G[i, j] * kt[j]
            pu += p * ut[i]
            dv[t, b, h, i] = beta_t * p
            write = beta_t * ut[i]
            erase = beta_t * p if delta else zero
            for j in range(K):
                g = G[i, j] + dyt[i] * qt[j]
                dkt[j] += write * g
                G[i, j] = a * (g - erase * kt[j])
        if weighted:
            dbeta[t, b, h] = pu
        if resets and reset[t, b]:
            G[:] = 0

    W = np.empty_like(G)
    _copy(initial[b, h], W)
    for t in range(T):
        if resets and reset[t, b]:
            W[:] = 0
        a = np.exp(log_decay[t, b, h]) if decays else one
        qt, kt, ut, dyt, dvt = q[t, b, h], k[t, b, h], u[t, b, h], dy[t, b, h], dv[t, b, h]
        dqt, dkt = dq[t, b, h], dk[t, b, h]
        beta_t = beta[t, b, h] if weighted else one
        for j in range(K):
            dqt[j] = 0
        for i in range(V):
            write = beta_t * ut[i]
            erase = dvt[i] if delta else zero
            for j in range(K):
                w = a * W[i, j]
                dkt[j] -= erase * w
                w += write * kt[j]
                dqt[j] += dyt[i] * w
                W[i, j] = w

    if decays:
        s = 0.0
        for i in range(V):
            for j in range(K):
                s += dfinal[b, h, i, j] * W[i, j]
        for t in range(T - 1, -1, -1):
            for j in range(K):
                s += dq[t, b, h, j] * q[t, b, h, j]
            for i in range(V):
                s -= dv[t, b, h, i] * v[t, b, h, i]
            if resets and reset[t, b]:
                s = 0.0
            dlog_decay[t, b, h] = s


@compiled
def _forward_serial(zero, sizes, inputs, outputs, delta):
    given, results = _inputs(zero, sizes, inputs), _outputs(zero, sizes, outputs)
    _, B, H, _, _ = sizes
    for n in range(B * H):
        _forward_head(n // H, n % H, given, results, delta)


@compiled_parallel
def _forward_parallel(zero, sizes, inputs, outputs, delta):
    given, results = _inputs(zero, sizes, inputs), _outputs(zero, sizes, outputs)
    _, B, H, _, _ = sizes
    for n in numba.prange(B * H):
        _forward_head(n // H, n % H, given, results, delta)


@compiled
def _backward_serial(zero, sizes, inputs, saved, gradients, delta):
    given, kept = _inputs(zero, sizes, inputs), _saved(zero, sizes, saved)
    wanted = _gradients(zero, sizes, gradients)
    _, B, H, _, _ = sizes
    for n in range(B * H):
        _backward_head(n // H, n % H, given, kept, wanted, delta)


@compiled_parallel
def _backward_parallel(zero, sizes, inputs, saved, gradients, delta):
    given, kept = _inputs(zero, sizes, inputs), _saved(zero, sizes, saved)
    wanted = _gradients(zero, sizes, gradients)
    _, B, H, _, _ = sizes
    for n in numba.prange(B * H):
        _backward_head(n // H, n % H, given, kept, wanted, delta)


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
    """CPU kernel of ``torch.ops.fwp_rl.fast_weight``: y, the state after, and u (empty for sum)."""
    delta = rule == "delta"
    inputs = contiguous(q, k, v, beta, state, log_decay, reset)
    y, final = _empty_like(v), _empty_like(state)
    u = _empty_like(v) if delta else v.new_empty((0,))
    launch(
        _forward_serial,
        _forward_parallel,
        q.shape[0],
        ZERO[q.dtype],
        (*q.shape, v.shape[3]),
        addresses(*inputs),
        addresses(y, final, u),
        delta,
    )
    return y, final, u


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
    dfinal: Tensor,
) -> tuple[Tensor, ...]:
    """CPU kernel of ``torch.ops.fwp_rl.fast_weight_backward``: the gradients of q, k, v, beta,
    state and log_decay (empty where an input was not given)."""
    delta = rule == "delta"
    inputs = contiguous(q, k, v, beta, state, log_decay, reset)
    saved = contiguous(u if delta else v, dy, dfinal)
    differentiable = (q, k, v, beta, state, log_decay)
    gradients = tuple(q.new_empty((0,) if x is None else x.shape) for x in differentiable)
    launch(
        _backward_serial,
        _backward_parallel,
        q.shape[0],
        ZERO[q.dtype],
        (*q.shape, v.shape[3]),
        addresses(*inputs),
        addresses(*saved),
        addresses(*gradients),
        delta,
    )
    return gradients


def _empty_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
