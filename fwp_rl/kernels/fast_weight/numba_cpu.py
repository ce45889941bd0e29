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
Optional arrays that were not given come as empty ones.
"""

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fwp_rl.kernels.numba_runtime import compiled, compiled_parallel, launch

__all__ = ["backward", "forward"]

# The kernels are numba's dialect: their types are those of the arrays, float32 or float64.
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False


@compiled
def _copy(source, target):  # numba's slice assignment is not vectorised
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            target[i, j] = source[i, j]


@compiled
def _forward_head(b, h, inputs, outputs):
    q, k, v, beta, initial, log_decay, reset, delta = inputs
    y, final, u = outputs
    resets, decays = reset.size > 0, log_decay.size > 0
    W = final[b, h]
    _copy(initial[b, h], W)
    V, K = W.shape
    zero, one = q.dtype.type(0), q.dtype.type(1)
    for t in range(q.shape[0]):
        if resets and reset[t, b]:
            W[:] = 0
        a = np.exp(log_decay[t, b, h]) if decays else one
        qt, kt, vt, yt = q[t, b, h], k[t, b, h], v[t, b, h], y[t, b, h]
        kq = zero
        for j in range(K):
            kq += kt[j] * qt[j]
        for i in range(V):
            wk, wq = zero, zero
            for j in range(K):
                wk += W[i, j] * kt[j]
                wq += W[i, j] * qt[j]
            write = vt[i]
            if delta:
                write -= a * wk
                u[t, b, h, i] = write
            write *= beta[t, b, h]
            yt[i] = a * wq + kq * write
            for j in range(K):
                W[i, j] = a * W[i, j] + write * kt[j]


@compiled
def _backward_head(b, h, inputs, saved, gradients):
    q, k, v, beta, initial, log_decay, reset, delta = inputs
    u, dy, dfinal = saved
    dq, dk, dv, dbeta, dinitial, dlog_decay = gradients
    resets, decays = reset.size > 0, log_decay.size > 0
    G = dinitial[b, h]
    _copy(dfinal[b, h], G)
    V, K = G.shape
    T = q.shape[0]
    zero, one = q.dtype.type(0), q.dtype.type(1)
    for t in range(T - 1, -1, -1):
        a = np.exp(log_decay[t, b, h]) if decays else one
        qt, kt, ut, dyt, dkt = q[t, b, h], k[t, b, h], u[t, b, h], dy[t, b, h], dk[t, b, h]
        beta_t = beta[t, b, h]
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
        for j in range(K):
            dqt[j] = 0
        for i in range(V):
            write = beta[t, b, h] * ut[i]
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
def _forward_serial(inputs, outputs):
    B, H = inputs[0].shape[1:3]
    for n in range(B * H):
        _forward_head(n // H, n % H, inputs, outputs)


@compiled_parallel
def _forward_parallel(inputs, outputs):
    B, H = inputs[0].shape[1:3]
    for n in numba.prange(B * H):
        _forward_head(n // H, n % H, inputs, outputs)


@compiled
def _backward_serial(inputs, saved, gradients):
    B, H = inputs[0].shape[1:3]
    for n in range(B * H):
        _backward_head(n // H, n % H, inputs, saved, gradients)


@compiled_parallel
def _backward_parallel(inputs, saved, gradients):
    B, H = inputs[0].shape[1:3]
    for n in numba.prange(B * H):
        _backward_head(n // H, n % H, inputs, saved, gradients)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    state: Tensor,
    log_decay: Tensor | None,
    reset: Tensor | None,
    delta: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """CPU kernel of ``torch.ops.fwp_rl.fast_weight``: y, the state after, and u (empty for sum)."""
    y, final = _empty_like(v), _empty_like(state)
    u = _empty_like(v) if delta else torch.empty((0, 0, 0, 0), dtype=v.dtype)
    inputs = _arrays(q, k, v, beta, state, log_decay, reset, delta)
    launch(
        _forward_serial,
        _forward_parallel,
        q.shape[0],
        inputs,
        (y.numpy(), final.numpy(), u.numpy()),
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
    delta: bool,
    u: Tensor,
    dy: Tensor,
    dfinal: Tensor,
) -> tuple[Tensor, ...]:
    """CPU kernel of ``torch.ops.fwp_rl.fast_weight_backward``: the gradients of q, k, v, beta,
    state and log_decay (empty where log_decay was not given)."""
    dbeta = torch.empty(q.shape[:3], dtype=q.dtype)
    dlog_decay = torch.empty((0, 0, 0), dtype=q.dtype) if log_decay is None else _empty_like(dbeta)
    like_inputs = (_empty_like(x) for x in (q, k, v))
    gradients = (*like_inputs, dbeta, _empty_like(state), dlog_decay)
    launch(
        _backward_serial,
        _backward_parallel,
        q.shape[0],
        _arrays(q, k, v, beta, state, log_decay, reset, delta),
        (_array(u if delta else v), _array(dy), _array(dfinal)),
        tuple(x.numpy() for x in gradients),
    )
    return gradients


def _arrays(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    state: Tensor,
    log_decay: Tensor | None,
    reset: Tensor | None,
    delta: bool,
) -> tuple[Any, ...]:
    queries = _array(q)
    return (
        queries,
        _array(k),
        _array(v),
        np.ones(q.shape[:3], queries.dtype) if beta is None else _array(beta),
        _array(state),
        np.empty((0, 0, 0), queries.dtype) if log_decay is None else _array(log_decay),
        np.empty((0, 0), np.bool_) if reset is None else _array(reset),
        delta,
    )


def _empty_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _array(x: Tensor) -> NDArray[Any]:
    if x.requires_grad:
        x = x.detach()
    return x.contiguous().numpy()
