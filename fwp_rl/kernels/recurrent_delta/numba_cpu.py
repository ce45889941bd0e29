"""The recurrent-delta op on CPU: one fused loop per head, forward and backward.

Adjoint equations, with W' the matrix after reset, s = tanh(y_prev), b the write strength,
u = v - W' k the error that was written, G the gradient of W after the step. Backward in time, from
G = dL/dW_T, dy the gradient of y from outside and from the step after:

    G  += dy q^T;  p = G k;  dv = b p;  db = p.u
    dq = W^T dy;  dk = b G^T u - W'^T dv
    dxq, dxk through the softmax;  dxv = dv;  dxb = db b (1 - b)
    ds = R_q^T dxq + R_k^T dxk + R_v^T dxv + r_b dxb;  dy_prev = ds (1 - s^2)
    G <- G - dv k^T                                 (G and dy_prev are 0 across a reset or a cut)

dy_prev needs dq and dk of the step after, so W is wanted while time runs backward. It is neither
kept nor un-done, but a sum over the steps since the last reset or, failing that, since the start of
a chunk of 16 steps, where it was W_0:

    W'_t = W_0 + sum_{r<t} b_r u_r k_r^T,      W_t = W'_t + b_t u_t k_t^T

so the products above cost dot products per earlier step of the chunk. W_0 of every chunk is made by
one replay, in memory that one head at a time uses.

Sizes are run-time values on purpose: as constants, LLVM unrolls the inner loops before it
vectorises them. A reset that was not given comes as an empty array.
"""

import numba
import numpy as np
import torch

from fwp_rl.kernels.inputs import Inputs, Tensors
from fwp_rl.kernels.numba_math import (
    clear,
    clear_matrix,
    copy,
    copy_matrix,
    cuts,
    dot,
    exp,
    last_resets,
    softmax,
    softmax_adjoint,
)
from fwp_rl.kernels.numba_runtime import compiled, compiled_parallel, inlined, launch, part, views
from fwp_rl.kernels.recurrent_delta import OP

__all__ = ["backward", "forward"]

# The kernels are numba's dialect: their types are those of the arrays, float32 or float64.
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

CHUNK = 16

# forward, the slow matrices are transposed: rows are added up, which needs no sum along a row
_inputs = views(OP.axes, {**OP.inputs, "R_q": "H V K", "R_k": "H V K"})
_results = views(OP.axes, OP.outputs, OP.saved)
_reads = views(
    OP.axes, {name: OP.inputs[name] for name in ("R_q", "R_k", "R_v", "r_b", "W", "reset")}
)
_saved = views(OP.axes, OP.saved, OP.outputs)
_gradients = views(
    OP.axes, {name: OP.inputs[name] for name in ("xq", "xk", "xv", "xb", "W", "y_prev")}
)


@inlined
def _add_transposed_product(M, x, y):
    """y += M^T x: four rows at a time, so that y is read and written a fourth as often."""
    rows = M.shape[0] // 4 * 4
    for i in range(0, rows, 4):
        a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
        for j in range(M.shape[1]):
            y[j] += a * M[i, j] + b * M[i + 1, j] + c * M[i + 2, j] + d * M[i + 3, j]
    for i in range(rows, M.shape[0]):
        for j in range(M.shape[1]):
            y[j] += x[i] * M[i, j]


@part
def _forward_head(b, h, inputs, outputs):
    xq, xk, xv, xb, R_q, R_k, R_v, r_b, W_0, y_0, reset = inputs
    y, W_last, y_last, s, q, k, beta, u = outputs
    W, y_prev = W_last[b, h], y_last[b, h]
    copy_matrix(W_0[b, h], W)
    copy(y_0[b, h], y_prev)
    V, K = W.shape
    zero, one, two = W.dtype.type(0), W.dtype.type(1), W.dtype.type(2)
    v = np.empty(V, W.dtype)
    for t in range(xq.shape[0]):
        if reset.size > 0 and reset[t, b]:
            clear_matrix(W)
            clear(y_prev)
        s_t, q_t, k_t, u_t = s[t, b, h], q[t, b, h], k[t, b, h], u[t, b, h]
        for i in range(V):
            s_t[i] = one - two / (exp(two * y_prev[i]) + one)
        copy(xq[t, b, h], q_t)
        copy(xk[t, b, h], k_t)
        copy(xv[t, b, h], v)
        _add_transposed_product(R_q[h], s_t, q_t)
        _add_transposed_product(R_k[h], s_t, k_t)
        _add_transposed_product(R_v[h], s_t, v)
        softmax(q_t, q_t)
        softmax(k_t, k_t)
        rate = one / (one + exp(-xb[t, b, h] - dot(r_b[h], s_t)))
        beta[t, b, h] = rate
        kq = dot(k_t, q_t)
        for i in range(V):
            wk, wq = zero, zero
            for j in range(K):
                wk += W[i, j] * k_t[j]
                wq += W[i, j] * q_t[j]
            u_t[i] = v[i] - wk
            write = rate * u_t[i]
            y_prev[i] = wq + kq * write
            for j in range(K):
                W[i, j] += write * k_t[j]
        copy(y_prev, y[t, b, h])


@inlined
def _chunk_starts(b, h, k, beta, u, W_0, reset):
    """W before the first step of every chunk, [chunks, V, K]."""
    T = k.shape[0]
    V, K = W_0.shape[2:]
    W = np.empty(((T - 1) // CHUNK + 1, V, K), k.dtype)
    copy_matrix(W_0[b, h], W[0])
    for n in range(1, W.shape[0]):
        copy_matrix(W[n - 1], W[n])
        for t in range((n - 1) * CHUNK, n * CHUNK):
            if reset.size > 0 and reset[t, b]:
                clear_matrix(W[n])
            for i in range(V):
                write = beta[t, b, h] * u[t, b, h, i]
                for j in range(K):
                    W[n, i, j] += write * k[t, b, h, j]
    return W


@part
def _backward_head(b, h, inputs, saved, gradients, horizon):
    R_q, R_k, R_v, r_b, W_0, reset = inputs
    s, q, k, beta, u, dy, dW_last, dy_last = saved
    dxq, dxk, dxv, dxb, dW_0, dy_0 = gradients
    T = q.shape[0]
    zero, one = q.dtype.type(0), q.dtype.type(1)
    # Both end as gradients of the initial state, so they are kept where those are wanted.
    G, dy_t = dW_0[b, h], dy_0[b, h]
    copy_matrix(dW_last[b, h], G)
    copy(dy_last[b, h], dy_t)
    V, K = G.shape
    ds = np.empty(V, q.dtype)
    starts = _chunk_starts(b, h, k, beta, u, W_0, reset)
    last_reset = last_resets(b, T, reset)
    for t in range(T - 1, -1, -1):
        start = t // CHUNK * CHUNK
        W = starts[t // CHUNK]
        # W' is what the chunk began with, if no reset came between, plus the writes since.
        since = max(start, last_reset[t])
        live = last_reset[t] < start
        ends = last_reset[t] == t or cuts(t, horizon)
        q_t, k_t, u_t, rate = q[t, b, h], k[t, b, h], u[t, b, h], beta[t, b, h]
        dq, dk, dv = dxq[t, b, h], dxk[t, b, h], dxv[t, b, h]
        for i in range(V):
            dy_t[i] += dy[t, b, h, i]
        kq = dot(k_t, q_t)
        clear(dq)
        clear(dk)
        pu = zero
        for i in range(V):
            p = dy_t[i] * kq
            for j in range(K):
                p += G[i, j] * k_t[j]
            pu += p * u_t[i]
            dv[i] = rate * p
            write = rate * u_t[i]
            if live:
                for j in range(K):
                    g = G[i, j] + dy_t[i] * q_t[j]
                    dk[j] += write * g - dv[i] * W[i, j]
                    dq[j] += dy_t[i] * W[i, j]
                    G[i, j] = g - dv[i] * k_t[j]
            else:
                for j in range(K):
                    g = G[i, j] + dy_t[i] * q_t[j]
                    dk[j] += write * g
                    G[i, j] = g - dv[i] * k_t[j]
        for r in range(since, t + 1):  # the read sees this step's own write, the erasure does not
            read = beta[r, b, h] * dot(u[r, b, h], dy_t)
            for j in range(K):
                dq[j] += read * k[r, b, h, j]
        for r in range(since, t):
            erased = beta[r, b, h] * dot(u[r, b, h], dv)
            for j in range(K):
                dk[j] -= erased * k[r, b, h, j]
        softmax_adjoint(q_t, dq, dq)
        softmax_adjoint(k_t, dk, dk)
        db = pu * rate * (one - rate)
        dxb[t, b, h] = db
        if ends:
            clear_matrix(G)
            clear(dy_t)
        else:
            for i in range(V):
                ds[i] = db * r_b[h, i]
            _add_transposed_product(R_q[h], dq, ds)
            _add_transposed_product(R_k[h], dk, ds)
            _add_transposed_product(R_v[h], dv, ds)
            for i in range(V):
                dy_t[i] = ds[i] * (one - s[t, b, h, i] * s[t, b, h, i])


@compiled
def _forward_serial(zero, sizes, inputs, results):
    given, made = _inputs(zero, sizes, inputs), _results(zero, sizes, results)
    _, B, H, _, _ = sizes
    for n in range(B * H):
        _forward_head(n % B, n // B, given, made)


@compiled_parallel
def _forward_parallel(zero, sizes, inputs, results):
    given, made = _inputs(zero, sizes, inputs), _results(zero, sizes, results)
    _, B, H, _, _ = sizes
    for n in numba.prange(B * H):
        _forward_head(n % B, n // B, given, made)


@compiled
def _backward_serial(zero, sizes, inputs, saved, gradients, horizon):
    given, kept = _reads(zero, sizes, inputs), _saved(zero, sizes, saved)
    wanted = _gradients(zero, sizes, gradients)
    _, B, H, _, _ = sizes
    for n in range(B * H):
        _backward_head(n % B, n // B, given, kept, wanted, horizon)


@compiled_parallel
def _backward_parallel(zero, sizes, inputs, saved, gradients, horizon):
    given, kept = _reads(zero, sizes, inputs), _saved(zero, sizes, saved)
    wanted = _gradients(zero, sizes, gradients)
    _, B, H, _, _ = sizes
    for n in numba.prange(B * H):
        _backward_head(n % B, n // B, given, kept, wanted, horizon)


def forward(inputs: Inputs, results: Tensors) -> None:
    """CPU kernel of ``torch.ops.fwp_rl.recurrent_delta``."""
    xq, xk, xv, xb, R_q, R_k, R_v, *rest = inputs
    slow = (R.transpose(1, 2) for R in (R_q, R_k, R_v))
    launch(
        _forward_serial,
        _forward_parallel,
        OP.sizes(inputs),
        [(xq, xk, xv, xb, *slow, *rest)],
        [results],
    )


def backward(
    inputs: Inputs, saved: Tensors, cotangents: Tensors, gradients: Tensors, horizon: int
) -> None:
    """CPU kernel of ``torch.ops.fwp_rl.recurrent_delta_backward``."""
    _, _, _, _, R_q, R_k, R_v, r_b, W, _, reset = inputs
    dq, dk, dv, db, *slow, dr_b, dW, dy_prev = gradients
    launch(
        _backward_serial,
        _backward_parallel,
        OP.sizes(inputs),
        [(R_q, R_k, R_v, r_b, W, reset), (*saved, *cotangents)],
        [(dq, dk, dv, db, dW, dy_prev)],
        horizon,
    )
    # by one product per head; einsum would first copy its operands, twice as slow
    s = saved[0]
    steps = s.flatten(0, 1).transpose(0, 1)
    for x, dR in zip((dq, dk, dv), slow, strict=True):
        torch.bmm(x.flatten(0, 1).permute(1, 2, 0), steps, out=dR)
    dr_b.copy_(torch.einsum("tbh,tbhj->hj", db, s))
