"""The fast-weight op on CPU: one fused loop per head, forward and backward.

Adjoint equations, with W' = a W the state after reset and decay, u the error that was written
(v for the sum rule), G the gradient of W. Backward in time, from G = dL/dW_T:

    G  += dy q^T;  p = G k;  dv = b p;  dbeta = p.u;  dk = b G^T u
    G  <- a (G - dv k^T)  [delta]   or   a G  [sum]           (0 across a reset or a cut)

then forward in time, replaying W from the initial state:

    dk -= W'^T dv  [delta];   W = W' + b u k^T;   dq = W^T dy

dL/dlog a_t is s_{t-1} = <G_{t-1}, W_{t-1}>, which runs backward by s_{t-1} = s_t + dq.q - dv.v
from s_T = <G_T, W_T> and restarts at 0 across a reset or a cut: no matrix work. The decay of a step
that a horizon cuts from the one before still has its gradient, that of a reset has none. Between
forward and backward only u is kept; W is replayed, never un-done, for a reset or a decay cannot be
un-done.

Both reads of a step share one sweep over the old state: W q = W' q + b (k.q) u. Sizes are
run-time values on purpose: as constants, LLVM unrolls the inner loops before it vectorises them.
Arrays that were not given are empty.
"""

import numba
import numpy as np

from fwp_rl.kernels.fast_weight import OP
from fwp_rl.kernels.inputs import Inputs, Tensors
from fwp_rl.kernels.numba_math import clear_matrix, copy_matrix, cuts
from fwp_rl.kernels.numba_runtime import compiled, compiled_parallel, inlined, launch, part, views

__all__ = ["backward", "forward"]

# The kernels are numba's dialect.
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

_inputs = views(OP.axes, OP.inputs)
_results = views(OP.axes, OP.outputs, OP.saved)
_saved = views(OP.axes, OP.saved, OP.outputs)
_gradients = views(OP.axes, OP.gradients_of)


@inlined
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


@part
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


@part
def _backward_head(b, h, inputs, saved, gradients, delta, horizon):
    q, k, v, beta, initial, log_decay, reset = inputs
    u, dy, dfinal = saved
    dq, dk, dv, dbeta, dinitial, dlog_decay = gradients
    weighted, decays, resets = beta.size > 0, log_decay.size > 0, reset.size > 0
    # G ends as the gradient of the initial state, so it is kept where that is wanted.
    G = dinitial[b, h]
    copy_matrix(dfinal[b, h], G)
    V, K = G.shape
    T = q.shape[0]
    zero, one = q.dtype.type(0), q.dtype.type(1)
    columns = K  # of G that are not zero: none after a cut
    for t in range(T - 1, -1, -1):
        a = np.exp(log_decay[t, b, h]) if decays else one
        qt, kt, ut, dyt, dkt = q[t, b, h], k[t, b, h], u[t, b, h], dy[t, b, h], dk[t, b, h]
        beta_t = beta[t, b, h] if weighted else one
        kq, pu = zero, zero
        for j in range(K):
            kq += kt[j] * qt[j]
            dkt[j] = 0
        for i in range(V):
            # p = (G + dy q^T) k, before the sweep below that makes the sum.
            p = dyt[i] * kq
            for j in range(columns):
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
        cut = cuts(t, horizon)
        columns = 0 if cut else K
        if cut or (resets and reset[t, b]):
            clear_matrix(G)

    W = np.empty_like(G)
    copy_matrix(initial[b, h], W)
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
            if cuts(t, horizon):
                s = 0.0


@compiled
def _forward_serial(zero, sizes, inputs, results, delta):
    given, made = _inputs(zero, sizes, inputs), _results(zero, sizes, results)
    _, B, H, _, _ = sizes
    for n in range(B * H):
        _forward_head(n // H, n % H, given, made, delta)


@compiled_parallel
def _forward_parallel(zero, sizes, inputs, results, delta):
    given, made = _inputs(zero, sizes, inputs), _results(zero, sizes, results)
    _, B, H, _, _ = sizes
    for n in numba.prange(B * H):
        _forward_head(n // H, n % H, given, made, delta)


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
    """CPU kernel of ``torch.ops.fwp_rl.fast_weight``."""
    *given, rule = inputs
    launch(_forward_serial, _forward_parallel, OP.sizes(given), [given], [results], rule == "delta")


def backward(
    inputs: Inputs, saved: Tensors, cotangents: Tensors, gradients: Tensors, horizon: int
) -> None:
    """CPU kernel of ``torch.ops.fwp_rl.fast_weight_backward``."""
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
