"""The general form of the fast-weight op on CPU: one fused loop per head, forward and backward.

Adjoint equations, with W' = W diag(a) the state after reset and decay, e the key that erases, u the
error that was written (v for the sum rule, whose e is 0), G the gradient of W. Backward in time,
from G = dL/dW_T:

    G  += dy q^T;  p = G k;  dv = b p;  dbeta = p.u;  dk = b G^T u
    G  <- (G - dv e^T) diag(a)                              (0 across a reset or a cut)

then forward in time, replaying W from the initial state:

    de = -W'^T dv;   W = W' + b u k^T;   dq = W^T dy

dL/dlog a_t is r_t, the sums of G W over the rows: K numbers that run backward by

    r_t = r_{t+1} + q dq - k dk + e de                      elementwise

from those of G_T and W_T, and restart at 0 across a reset or a cut: no matrix work. A decay of
exactly 0 has a gradient of exactly 0, and restarts them too. Else as in ``fast_weight``.

A step is linear in the matrix before it: W' e = W (a e), so the reads share one sweep.
"""

import numba
import numpy as np

from fwp_rl.kernels.fast_weight_channels import OP
from fwp_rl.kernels.inputs import Inputs, Tensors
from fwp_rl.kernels.numba_math import clear, clear_matrix, copy_matrix, cuts, dot, exp
from fwp_rl.kernels.numba_runtime import compiled, compiled_parallel, inlined, launch, part, views

__all__ = ["backward", "forward"]

# The kernels are numba's dialect.
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

_inputs = views(OP.axes, OP.inputs)
_results = views(OP.axes, OP.outputs, OP.saved)
_saved = views(OP.axes, OP.saved, OP.outputs)
_gradients = views(OP.axes, OP.gradients_of)


@part
def _decays(log_a, a):
    for j in range(a.size):
        a[j] = exp(log_a[j])


@inlined
def _step(before, W, keys, values, rooms, beta, delta):
    """Make W what it is one step later, or what ``before`` is, where that is not None: in place, W
    must be one array. ``rooms``: three vectors."""
    qt, kt, et, log_a = keys
    vt, yt, ut = values
    old = W if before is None else before
    V, K = W.shape
    zero = qt.dtype.type(0)
    a, aq, ae = rooms[0], rooms[1], rooms[2]
    _decays(log_a, a)
    kq = zero
    for j in range(K):
        aq[j] = a[j] * qt[j]
        kq += kt[j] * qt[j]
    for j in range(K):
        ae[j] = a[j] * et[j] if delta else zero
    for i in range(V):
        we, wq = zero, zero
        for j in range(K):
            we += old[i, j] * ae[j]
            wq += old[i, j] * aq[j]
        write = vt[i]
        if delta:
            write -= we
            ut[i] = write
        write *= beta
        yt[i] = wq + kq * write
        for j in range(K):
            W[i, j] = a[j] * old[i, j] + write * kt[j]


@part
def _forward_head(b, h, inputs, outputs, rooms, delta):
    q, k, v, beta, initial, erase, log_decay, reset = inputs
    y, final, u = outputs
    resets = reset.size > 0
    W = final[b, h]
    for t in range(q.shape[0]):
        keys = (q[t, b, h], k[t, b, h], erase[t, b, h], log_decay[t, b, h])
        values = (v[t, b, h], y[t, b, h], u[t, b, h])
        beta_t = beta[t, b, h]
        fresh = resets and reset[t, b]
        if fresh:
            clear_matrix(W)
        if t == 0 and not fresh:
            _step(initial[b, h], W, keys, values, rooms, beta_t, delta)
        else:
            _step(None, W, keys, values, rooms, beta_t, delta)


@part
def _backward_head(b, h, inputs, saved, gradients, delta, horizon):
    q, k, _, beta, initial, erase, log_decay, reset = inputs
    u, dy, dfinal = saved
    dq, dk, dv, dbeta, dinitial, derase, dlog_decay = gradients
    resets = reset.size > 0
    # G ends as the gradient of the initial state, so it is kept where that is wanted.
    G = dinitial[b, h]
    copy_matrix(dfinal[b, h], G)
    V, K = G.shape
    T = q.shape[0]
    zero = q.dtype.type(0)
    nothing, unused = np.zeros(K, q.dtype), np.zeros(K, q.dtype)  # of the sum rule: e, de
    columns = K  # of G that are not zero: none after a cut
    for t in range(T - 1, -1, -1):
        qt, kt, ut, dyt, dkt = q[t, b, h], k[t, b, h], u[t, b, h], dy[t, b, h], dk[t, b, h]
        et = erase[t, b, h] if delta else nothing
        beta_t, log_a = beta[t, b, h], log_decay[t, b, h]
        a = dlog_decay[t, b, h]  # kept there for the way forward
        _decays(log_a, a)
        clear(dkt)
        kq, pu = dot(kt, qt), zero
        for i in range(V):
            # p = (G + dy q^T) k, before the sweep below that makes the sum.
            p = dyt[i] * kq
            for j in range(columns):
                p += G[i, j] * kt[j]
            pu += p * ut[i]
            lost = beta_t * p
            dv[t, b, h, i] = lost
            write = beta_t * ut[i]
            for j in range(K):
                g = G[i, j] + dyt[i] * qt[j]
                dkt[j] += write * g
                G[i, j] = a[j] * (g - lost * et[j])
        dbeta[t, b, h] = pu
        cut = cuts(t, horizon)
        columns = 0 if cut else K
        if cut or (resets and reset[t, b]):
            clear_matrix(G)

    W = np.empty_like(G)
    copy_matrix(initial[b, h], W)
    for t in range(T):
        if resets and reset[t, b]:
            clear_matrix(W)
        qt, kt, ut, dyt, dvt = q[t, b, h], k[t, b, h], u[t, b, h], dy[t, b, h], dv[t, b, h]
        et = erase[t, b, h] if delta else nothing
        det = derase[t, b, h] if delta else unused
        dqt, dkt, a, beta_t = dq[t, b, h], dk[t, b, h], dlog_decay[t, b, h], beta[t, b, h]
        clear(dqt)
        clear(det)
        for i in range(V):
            write = beta_t * ut[i]
            for j in range(K):
                w = a[j] * W[i, j]
                det[j] -= dvt[i] * w
                w += write * kt[j]
                dqt[j] += dyt[i] * w
                W[i, j] = w
        for j in range(K):
            a[j] = qt[j] * dqt[j] - kt[j] * dkt[j] + et[j] * det[j]

    r = unused
    clear(r)
    for i in range(V):
        for j in range(K):
            r[j] += dfinal[b, h, i, j] * W[i, j]
    for t in range(T - 1, -1, -1):
        dlog_a, log_a = dlog_decay[t, b, h], log_decay[t, b, h]
        if resets and reset[t, b]:
            clear(r)
            clear(dlog_a)
        for j in range(K):
            r[j] = zero if log_a[j] == -np.inf else r[j] + dlog_a[j]
            dlog_a[j] = r[j]
        if cuts(t, horizon):
            clear(r)


@compiled
def _forward_serial(zero, sizes, inputs, results, delta):
    given, made = _inputs(zero, sizes, inputs), _results(zero, sizes, results)
    _, B, H, K, _ = sizes
    rooms = np.empty((3, K), given[0].dtype)
    for n in range(B * H):
        _forward_head(n // H, n % H, given, made, rooms, delta)


@compiled_parallel
def _forward_parallel(zero, sizes, inputs, results, delta):
    given, made = _inputs(zero, sizes, inputs), _results(zero, sizes, results)
    _, B, H, K, _ = sizes
    for n in numba.prange(B * H):
        rooms = np.empty((3, K), given[0].dtype)
        _forward_head(n // H, n % H, given, made, rooms, delta)


@compiled
def _backward_serial(zero, sizes, inputs, saved, gradients, delta, horizon):
    given, kept = _inputs(zero, sizes, inputs), _saved(zero, sizes, saved)
    wanted = _gradients(zero, sizes, gradients)
    _, B, H, _, _ = sizes
    for n in range(B * H):
        _backward_head(n // H, n % H, given, kept, wanted, delta, horizon)


@compiled_parallel
def _backward_parallel(zero, sizes, inputs, saved, gradients, delta, horizon):
    given, kept = _inputs(zero, sizes, inputs), _saved(zero, sizes, saved)
    wanted = _gradients(zero, sizes, gradients)
    _, B, H, _, _ = sizes
    for n in numba.prange(B * H):
        _backward_head(n // H, n % H, given, kept, wanted, delta, horizon)


def forward(inputs: Inputs, results: Tensors) -> None:
    """CPU kernel of ``torch.ops.fwp_rl.fast_weight_channels``."""
    *given, rule = inputs
    launch(_forward_serial, _forward_parallel, OP.sizes(given), [given], [results], rule == "delta")


def backward(
    inputs: Inputs, saved: Tensors, cotangents: Tensors, gradients: Tensors, horizon: int
) -> None:
    """CPU kernel of ``torch.ops.fwp_rl.fast_weight_channels_backward``."""
    *given, rule = inputs
    _, _, v, *_ = given
    delta = rule == "delta"
    kept = (saved[0] if delta else v, *cotangents)  # what the sum rule writes is v
    launch(
        _backward_serial,
        _backward_parallel,
        OP.sizes(given),
        [given, kept],
        [gradients],
        delta,
        horizon,
    )
