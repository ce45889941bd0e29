"""The self-referential weight matrix on CPU: one fused loop per head, forward and backward.

The four blocks are rows of one matrix M = W + dW, and each row i has the rate of its block,
beta_i. With s = softmax(x), q and k after their softmax, d = q - k, a step is

    r = M s = [y, q, k, b before their maps];   e = M d;   M <- M + (beta e) k^T

Adjoint equations, G the gradient of M after the step, dy the one of y:

    p = G k;  de = beta p;  dbeta_g = sum of p e over the rows of block g
    G += de d^T;  dq = M^T de;  dk = G^T (beta e) - dq        (G before its own change)
    dr = [dy, softmax'(dq), softmax'(dk), dbeta beta (1 - beta)]
    G += dr s^T;  ds = M^T dr;  dx = softmax'(ds)             (then G is that of M before the step)

A reset makes M of W alone: G goes on to dW <- 0, so it stops there, as it does where a horizon
cuts. W is in M at every step, so its gradient is the sum of what the steps add to G. So G starts
from zero, and the gradient F of the final state is kept beside it: F + G stands for G in p and dk
of the steps after the last reset or cut.

dr is made of M^T de, so M is wanted while time runs backward. It is neither kept nor un-done: it is
a sum over the steps since the last reset, where it was W, or since the start of a chunk of 32
steps, where it was M_0,

    M_t = M_0 + sum_{r<t} (beta_r e_r) k_r^T,

so products with M^T cost two short vectors per earlier step of the chunk. M_0 of every chunk is
made by one replay, in memory that one head at a time uses.

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
    copy_matrix,
    cuts,
    dot,
    exp,
    last_resets,
    softmax,
    softmax_adjoint,
)
from fwp_rl.kernels.numba_runtime import compiled, compiled_parallel, inlined, launch, part, views
from fwp_rl.kernels.srwm import OP

__all__ = ["backward", "forward"]

# The kernels are numba's dialect: their types are those of the arrays, float32 or float64.
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

CHUNK = 32

_inputs = views(OP.axes, OP.inputs)
_results = views(OP.axes, OP.outputs, OP.saved)
_saved = views(OP.axes, OP.saved, OP.outputs)
_gradients = views(OP.axes, OP.gradients_of)
_by_column = views(OP.axes, {name: OP.inputs[name] for name in OP.state})


@inlined
def _add_matrix(source, target):
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            target[i, j] += source[i, j]


@part
def _any(x):
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            if x[i, j] != 0:
                return True
    return False


@inlined
def _read(W, dW, x, out):
    for i in range(W.shape[0]):
        total = W.dtype.type(0)
        for j in range(W.shape[1]):
            total += (W[i, j] + dW[i, j]) * x[j]
        out[i] = total


@inlined
def _write(W, dW, beta, d, k, e):
    for i in range(W.shape[0]):
        total = W.dtype.type(0)
        for j in range(W.shape[1]):
            total += (W[i, j] + dW[i, j]) * d[j]
        e[i] = total
        write = beta * total
        for j in range(W.shape[1]):
            dW[i, j] += write * k[j]


@inlined
def _write_and_read(W, dW, beta, d, k, e, x, out):
    """``_write``, and ``_read`` for the next step, in one sweep over the matrix."""
    for i in range(W.shape[0]):
        total = W.dtype.type(0)
        for j in range(W.shape[1]):
            total += (W[i, j] + dW[i, j]) * d[j]
        e[i] = total
        write = beta * total
        total = W.dtype.type(0)
        for j in range(W.shape[1]):
            shift = dW[i, j] + write * k[j]
            dW[i, j] = shift
            total += (W[i, j] + shift) * x[j]
        out[i] = total


@part
def _starts(W):
    """Where each block begins in a vector of all rows, and the end."""
    starts = np.zeros(5, np.int64)
    for g in range(4):
        starts[g + 1] = starts[g] + W[g].shape[1]
    return starts


@part
def _forward_head(b, h, W, initial, s, reset, y, final, saved):
    q, k, beta, e = saved
    T, K = s.shape[0], s.shape[3]
    rows = _starts(W)
    r, d = np.empty(rows[4], s.dtype), np.empty(K, s.dtype)
    one = s.dtype.type(1)
    for g in range(4):
        copy_matrix(initial[g][b, h], final[g][b, h])
    for t in range(T):
        fresh = reset.size > 0 and reset[t, b]
        for g in range(4):
            if fresh:
                clear_matrix(final[g][b, h])
            if fresh or t == 0:
                _read(W[g][h], final[g][b, h], s[t, b, h], r[rows[g] : rows[g + 1]])
        qt, kt, bt = q[t, b, h], k[t, b, h], beta[t, b, h]
        for i in range(rows[1]):
            y[t, b, h, i] = r[i]
        softmax(r[rows[1] : rows[2]], qt)
        softmax(r[rows[2] : rows[3]], kt)
        for j in range(K):
            d[j] = qt[j] - kt[j]
        for g in range(4):
            bt[g] = one / (one + exp(-r[rows[3] + g]))
        for g in range(4):
            block = slice(rows[g], rows[g + 1])
            Wg, dW, et = W[g][h], final[g][b, h], e[t, b, h][block]
            if t + 1 < T:
                _write_and_read(Wg, dW, bt[g], d, kt, et, s[t + 1, b, h], r[block])
            else:
                _write(Wg, dW, bt[g], d, kt, et)


@inlined
def _write_adjoint(G, F, tail, M, beta, d, k, e, de, dq, dk):
    """Steps G back over one block's write, sets de, adds to dq and dk, returns dbeta."""
    dbeta = G.dtype.type(0)
    for i in range(G.shape[0]):
        p = dot(G[i], k)
        if tail:
            p += dot(F[i], k)
        dbeta += p * e[i]
        write, de_i = beta * e[i], beta * p
        de[i] = de_i
        for j in range(G.shape[1]):
            g = G[i, j]
            dk[j] += write * g
            G[i, j] = g + de_i * d[j]
        for j in range(G.shape[1]):
            dq[j] += de_i * M[i, j]
        if tail:
            for j in range(G.shape[1]):
                dk[j] += write * F[i, j]
    return dbeta


@inlined
def _read_adjoint(G, M, s, dr, ds):
    """Steps G back over one block's read, adds to ds."""
    for i in range(G.shape[0]):
        dr_i = dr[i]
        for j in range(G.shape[1]):
            ds[j] += dr_i * M[i, j]
        for j in range(G.shape[1]):
            G[i, j] += dr_i * s[j]


@inlined
def _add_writes(writes, keys, x, out):
    """out += (sum of writes_r keys_r^T)^T x."""
    for r in range(writes.shape[0]):
        weight = dot(writes[r], x)
        for j in range(out.size):
            out[j] += weight * keys[r, j]


@inlined
def _chunk_starts(b, h, W, initial, reset, saved):
    """M before the first step of every chunk, [chunks, rows, K]."""
    s, _, k, beta, e = saved
    T, K = s.shape[0], s.shape[3]
    rows = _starts(W)
    M = np.empty(((T - 1) // CHUNK + 1, rows[4], K), s.dtype)
    for g in range(4):
        base, shift = W[g][h], initial[g][b, h]
        for i in range(base.shape[0]):
            for j in range(K):
                M[0, rows[g] + i, j] = base[i, j] + shift[i, j]
    for n in range(1, M.shape[0]):
        copy_matrix(M[n - 1], M[n])
        for t in range((n - 1) * CHUNK, n * CHUNK):
            for g in range(4):
                if reset.size > 0 and reset[t, b]:
                    copy_matrix(W[g][h], M[n, rows[g] : rows[g + 1]])
                for i in range(rows[g], rows[g + 1]):
                    write = beta[t, b, h, g] * e[t, b, h, i]
                    for j in range(K):
                        M[n, i, j] += write * k[t, b, h, j]
    return M


@inlined
def _load_writes(b, h, start, stop, rows, saved, writes, keys):
    _, _, k, beta, e = saved
    for t in range(start, stop):
        for g in range(4):
            for i in range(rows[g], rows[g + 1]):
                writes[t - start, i] = beta[t, b, h, g] * e[t, b, h, i]
        for j in range(k.shape[3]):
            keys[t - start, j] = k[t, b, h, j]


@part
def _backward_head(b, h, W, initial, reset, saved, dy, dfinal, dx, dinitial, dW, horizon):
    s, q, k, beta, e = saved
    T, K = s.shape[0], s.shape[3]
    rows = _starts(W)
    M = _chunk_starts(b, h, W, initial, reset, saved)
    last_reset = last_resets(b, T, reset)
    writes, keys = np.empty((CHUNK, rows[4]), s.dtype), np.empty((CHUNK, K), s.dtype)
    de, dr = np.empty(rows[4], s.dtype), np.empty(rows[4], s.dtype)
    d, dq, dk = np.empty(K, s.dtype), np.empty(K, s.dtype), np.empty(K, s.dtype)
    one = s.dtype.type(1)
    # F is kept out of G, for the base weights take what the steps add alone; the initial state gets
    # it at the end, if no reset or cut stands between.
    last_cut = (T - 1) // horizon * horizon if horizon > 0 else 0
    tail = T  # the first step whose p and dk F is part of
    held = True  # whether G may be more than zero: not so after a cut
    for g in range(4):
        clear_matrix(dinitial[g][b, h])
        clear_matrix(dW[g][b, h])
        if _any(dfinal[g][b, h]):
            tail = max(last_reset[T - 1], last_cut)
    for n in range(M.shape[0] - 1, -1, -1):
        start = n * CHUNK
        stop = min(start + CHUNK, T)
        _load_writes(b, h, start, stop, rows, saved, writes, keys)
        for t in range(stop - 1, start - 1, -1):
            live, ends = last_reset[t] < start, last_reset[t] == t or cuts(t, horizon)
            earlier = slice(0 if live else last_reset[t] - start, t - start)
            st, qt, kt, bt, ds = s[t, b, h], q[t, b, h], k[t, b, h], beta[t, b, h], dx[t, b, h]
            for j in range(K):
                d[j] = qt[j] - kt[j]
            clear(ds)
            if held or t >= tail:
                clear(dq)
                clear(dk)
                for g in range(4):
                    block = slice(rows[g], rows[g + 1])
                    dbeta = _write_adjoint(
                        dinitial[g][b, h], dfinal[g][b, h], t >= tail,
                        M[n, block] if live else W[g][h],
                        bt[g], d, kt, e[t, b, h][block], de[block], dq, dk,
                    )  # fmt: skip
                    dr[rows[3] + g] = dbeta * bt[g] * (one - bt[g])
                _add_writes(writes[earlier], keys[earlier], de, dq)
                for j in range(K):
                    dk[j] -= dq[j]
                softmax_adjoint(qt, dq, dr[rows[1] : rows[2]])
                softmax_adjoint(kt, dk, dr[rows[2] : rows[3]])
                read = 4
            else:  # no gradient comes back to what is written, nor to q, k and b, which make it
                clear(dr)
                read = 1
            for i in range(rows[1]):
                dr[i] = dy[t, b, h, i]
            for g in range(read):
                block = slice(rows[g], rows[g + 1])
                G = dinitial[g][b, h]
                _read_adjoint(G, M[n, block] if live else W[g][h], st, dr[block], ds)
                if ends or t == 0:
                    _add_matrix(G, dW[g][b, h])
                if ends:
                    clear_matrix(G)
            _add_writes(writes[earlier], keys[earlier], dr, ds)
            softmax_adjoint(st, ds, ds)
            held = not cuts(t, horizon)
    if last_reset[T - 1] < 0 and last_cut == 0:
        for g in range(4):
            _add_matrix(dfinal[g][b, h], dinitial[g][b, h])


@compiled
def _forward_serial(zero, sizes, inputs, results):
    given, made = _inputs(zero, sizes, inputs), _results(zero, sizes, results)
    W, initial, reset = given[1:5], given[5:9], given[9]
    y, final, s, saved = made[0], made[1:5], made[5], made[6:]
    _, B, H, _, _ = sizes
    for n in range(B * H):
        _forward_head(n // H, n % H, W, initial, s, reset, y, final, saved)


@compiled_parallel
def _forward_parallel(zero, sizes, inputs, results):
    given, made = _inputs(zero, sizes, inputs), _results(zero, sizes, results)
    W, initial, reset = given[1:5], given[5:9], given[9]
    y, final, s, saved = made[0], made[1:5], made[5], made[6:]
    _, B, H, _, _ = sizes
    for n in numba.prange(B * H):
        _forward_head(n // H, n % H, W, initial, s, reset, y, final, saved)


@compiled
def _backward_serial(zero, sizes, inputs, saved, gradients, by_column, horizon):
    given, kept = _inputs(zero, sizes, inputs), _saved(zero, sizes, saved)
    W, initial, reset = given[1:5], given[5:9], given[9]
    made, dy, dfinal = kept[:5], kept[5], kept[6:]
    wanted, dW = _gradients(zero, sizes, gradients), _by_column(zero, sizes, by_column)
    dx, dinitial = wanted[0], wanted[5:]
    _, B, H, _, _ = sizes
    for n in range(B * H):
        _backward_head(
            n // H, n % H, W, initial, reset, made, dy, dfinal, dx, dinitial, dW, horizon
        )


@compiled_parallel
def _backward_parallel(zero, sizes, inputs, saved, gradients, by_column, horizon):
    given, kept = _inputs(zero, sizes, inputs), _saved(zero, sizes, saved)
    W, initial, reset = given[1:5], given[5:9], given[9]
    made, dy, dfinal = kept[:5], kept[5], kept[6:]
    wanted, dW = _gradients(zero, sizes, gradients), _by_column(zero, sizes, by_column)
    dx, dinitial = wanted[0], wanted[5:]
    _, B, H, _, _ = sizes
    for n in numba.prange(B * H):
        _backward_head(
            n // H, n % H, W, initial, reset, made, dy, dfinal, dx, dinitial, dW, horizon
        )


def forward(inputs: Inputs, results: Tensors) -> None:
    """CPU kernel of ``torch.ops.fwp_rl.srwm``."""
    torch.softmax(inputs[0].detach(), -1, out=results[5])  # the first of what is saved
    launch(_forward_serial, _forward_parallel, OP.sizes(inputs), [inputs], [results])


def backward(
    inputs: Inputs, saved: Tensors, cotangents: Tensors, gradients: Tensors, horizon: int
) -> None:
    """CPU kernel of ``torch.ops.fwp_rl.srwm_backward``."""
    _, *dbase, _, _, _, _ = gradients
    by_column = [torch.empty_like(dW) for dW in gradients[5:]]  # of the base weights, to be summed
    launch(
        _backward_serial,
        _backward_parallel,
        OP.sizes(inputs),
        [inputs, (*saved, *cotangents)],
        [gradients, by_column],
        horizon,
    )
    for total, dW in zip(dbase, by_column, strict=True):
        torch.sum(dW, 0, out=total)
