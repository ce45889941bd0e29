"""What the fast-RNN op and, with three gates instead of one, the fast-LSTM op run on CPU: one fused
loop per head, forward and backward.

Adjoint equations of one delta-programmed matrix R that is read with a query s, with R' the matrix
after reset, u = v - R' k the error that was written, G the gradient of R after the step. Backward
in time, from G = dL/dR_T and the gradient da of the read a = z + R s:

    dz  = da;  G += da s^T;  p = G k;  dv = b p;  dbeta = p.u
    dk  = b G^T u - R'^T dv;  ds = R^T da
    G  <- G - dv k^T                                         (0 across a reset or a cut)

The query is made of the step before: ds goes on into dy_{t-1} (0 across a reset or a cut), so R is
wanted while time runs backward. It is neither kept nor un-done. Without decay it is a sum over the
steps since the last reset or, failing that, since the start of a chunk of 32 steps, where it was
R_0:

    R'_t = R_0 + sum_{r<t} b_r u_r k_r^T,      R_t = R'_t + b_t u_t k_t^T

so the products above cost four dot products and sums of length V per earlier step of the chunk.
R_0 of every chunk is made by one replay, in memory that one head at a time uses.

The cell, with dy the gradient of y from outside and from the step after:

    fast RNN    y = a: da = dy;   y = softmax(a): da = y (dy - y.dy)
    fast LSTM   h = c o, c = i u + (1-i) c':  do = dy c;  dc += dy o;  di = dc (u - c');
                du = dc i;  dc' = dc (1-i);   da = d i (1-i), du, do o (1-o)

Sizes are run-time values on purpose: as constants, LLVM unrolls the inner loops before it
vectorises them. Arrays that an op goes without come as empty ones. All kernels stand in this one
file, for numba's cache sees no change of a function that is called from another.
"""

import numba
import numpy as np

from fwp_rl.kernels.inputs import Tensors
from fwp_rl.kernels.numba_math import (
    clear,
    clear_matrix,
    copy,
    copy_matrix,
    cuts,
    dot,
    last_resets,
    sigmoid,
    softmax,
    softmax_adjoint,
)
from fwp_rl.kernels.numba_runtime import compiled, compiled_parallel, inlined, launch, part, views

__all__ = ["backward_gates", "forward_gates"]

# The kernels are numba's dialect: their types are those of the arrays, float32 or float64.
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

CHUNK = 32

# either op's arrays, with the gates (G of them) in the place of heads
AXES = "TBHVG"
STEPS, RATES, MATRICES, VECTORS = "T B*G*H V", "T B*G*H", "B*G*H V V", "B*H V"
BY_HEAD = "T B*H V"

_inputs = views(
    AXES,
    {"z": STEPS, "k": STEPS, "v": STEPS, "beta": RATES},
    {"R": MATRICES, "h": VECTORS, "c": f"?{VECTORS}", "reset": "?T B"},
)
_results = views(
    AXES,
    {"y": BY_HEAD, "R": MATRICES, "h": VECTORS, "c": f"?{VECTORS}"},
    {"queries": BY_HEAD, "u": STEPS, "gates": f"?{STEPS}", "cells": f"?{BY_HEAD}"},
)
_reads = views(
    AXES, {"k": STEPS, "beta": RATES, "R": MATRICES, "c": f"?{VECTORS}", "reset": "?T B"}
)
_saved = views(
    AXES,
    {"queries": BY_HEAD, "u": STEPS, "gates": f"?{STEPS}", "cells": f"?{BY_HEAD}"},
    {"dy": BY_HEAD, "dR": MATRICES, "dh": VECTORS, "dc": f"?{VECTORS}"},
)
_gradients = views(
    AXES,
    {"z": STEPS, "k": STEPS, "v": STEPS, "beta": RATES},
    {"R": MATRICES, "h": VECTORS, "c": f"?{VECTORS}"},
)


@inlined
def _write_and_read(R, k, v, beta, s, z, u, a):
    """One step of one matrix, in one sweep over its old values: R s = R' s + b (k.s) u."""
    ks = dot(k, s)
    for i in range(R.shape[0]):
        rk, rs = R.dtype.type(0), R.dtype.type(0)
        for j in range(R.shape[1]):
            rk += R[i, j] * k[j]
            rs += R[i, j] * s[j]
        u[i] = v[i] - rk
        write = beta * u[i]
        a[i] = z[i] + rs + ks * write
        for j in range(R.shape[1]):
            R[i, j] += write * k[j]


@part
def _forward_head(m, inputs, outputs):
    z, k, v, beta, R_0, h_0, c_0, reset, H, softmax_query, softmax_output = inputs
    y, R, h_last, c_last, queries, u, gates, cells = outputs
    T, V = y.shape[0], y.shape[2]
    gate_count, b = z.shape[1] // y.shape[1], m // H
    first = b * gate_count * H + m % H  # of the gates, which are H apart
    lstm, resets, one = gate_count == 3, reset.size > 0, z.dtype.type(1)
    for g in range(gate_count):
        copy_matrix(R_0[first + g * H], R[first + g * H])
    h, c = h_last[m], np.empty(V, z.dtype)
    copy(h_0[m], h)
    if lstm:
        copy(c_0[m], c)
    for t in range(T):
        if resets and reset[t, b]:
            for g in range(gate_count):
                clear_matrix(R[first + g * H])
            clear(h)
            clear(c)
        s = queries[t, m]
        if softmax_query:
            softmax(h, s)
        else:
            copy(h, s)
        for g in range(gate_count):
            n = first + g * H
            a = gates[t, n] if lstm else y[t, m]
            _write_and_read(R[n], k[t, n], v[t, n], beta[t, n], s, z[t, n], u[t, n], a)
        if lstm:
            i, candidate, o = gates[t, first], gates[t, first + H], gates[t, first + 2 * H]
            sigmoid(i)
            sigmoid(o)
            for j in range(V):
                c[j] = i[j] * candidate[j] + (one - i[j]) * c[j]
                cells[t, m, j] = c[j]
                y[t, m, j] = c[j] * o[j]
        elif softmax_output:
            softmax(y[t, m], y[t, m])
            copy(y[t, m], gates[t, m])
        copy(y[t, m], h)
    if lstm:
        copy(c, c_last[m])


@inlined
def _adjoint(G, columns, R, live, k, beta, u, s, da, dk, dv, ds):
    """One step of one matrix backward in time: steps G back, sets dk and dv, adds to ds, returns
    dbeta. R, if live, is its value at the start of the chunk; ``_add_writes`` adds what is missing.
    ``columns`` of G are not zero: all, or none after a cut.
    """
    ks, dbeta, ua = dot(k, s), G.dtype.type(0), G.dtype.type(0)
    clear(dk)
    for i in range(G.shape[0]):
        p = da[i] * ks
        for j in range(columns):
            p += G[i, j] * k[j]
        dbeta += p * u[i]
        ua += da[i] * u[i]
        write, erase = beta * u[i], beta * p
        dv[i] = erase
        if live:
            for j in range(G.shape[1]):
                g = G[i, j] + da[i] * s[j]
                dk[j] += write * g - erase * R[i, j]
                ds[j] += da[i] * R[i, j]
                G[i, j] = g - erase * k[j]
        else:
            for j in range(G.shape[1]):
                g = G[i, j] + da[i] * s[j]
                dk[j] += write * g
                G[i, j] = g - erase * k[j]
    for j in range(k.size):
        ds[j] += beta * ua * k[j]
    return dbeta


@inlined
def _add_writes(keys, writes, first, stop, da, dk, dv, ds):
    """What writes of the chunk, b u k^T each, give to ds and dk."""
    for r in range(first, stop):
        read, erased = dot(writes[r], da), dot(writes[r], dv)
        for j in range(keys.shape[1]):
            ds[j] += read * keys[r, j]
            dk[j] -= erased * keys[r, j]


@inlined
def _replay(n, b, k, beta, u, R_0, reset, R):
    """R[chunk] is matrix n before the first step of a chunk."""
    copy_matrix(R_0[n], R[0])
    for chunk in range(1, R.shape[0]):
        now = R[chunk]
        copy_matrix(R[chunk - 1], now)
        for t in range((chunk - 1) * CHUNK, chunk * CHUNK):
            if reset.size > 0 and reset[t, b]:
                clear_matrix(now)
            for i in range(now.shape[0]):
                write = beta[t, n] * u[t, n, i]
                for j in range(now.shape[1]):
                    now[i, j] += write * k[t, n, j]


@inlined
def _load_writes(n, start, stop, k, beta, u, keys, writes):
    for t in range(start, stop):
        for j in range(k.shape[2]):
            keys[t - start, j] = k[t, n, j]
            writes[t - start, j] = beta[t, n] * u[t, n, j]


@inlined
def _lstm_adjoint(i, u, o, c, c_prev, dh, dc, da_i, da_u, da_o):
    """From dh, the gradients of what the three gates read; steps dc back in time."""
    one = c.dtype.type(1)
    for j in range(c.size):
        through = dc[j] + dh[j] * o[j]
        da_i[j] = through * (u[j] - c_prev[j]) * i[j] * (one - i[j])
        da_u[j] = through * i[j]
        da_o[j] = dh[j] * c[j] * o[j] * (one - o[j])
        dc[j] = through * (one - i[j])


@part
def _backward_head(m, inputs, saved, gradients):
    k, beta, R_0, c_0, reset, H, softmax_query, softmax_output, horizon = inputs
    queries, u, gates, cells, dy, dR_last, dh_last, dc_last = saved
    dz, dk, dv, dbeta, dR, dh_0, dc_0 = gradients
    T, V, gate_count, b = dy.shape[0], dy.shape[2], k.shape[1] // dy.shape[1], m // H
    first = b * gate_count * H + m % H
    second, third = first + H, first + 2 * H
    lstm, last_reset = gate_count == 3, last_resets(b, T, reset)
    starts = np.empty((gate_count, (T - 1) // CHUNK + 1, V, V), k.dtype)
    keys = np.empty((gate_count, CHUNK, V), k.dtype)
    writes = np.empty((gate_count, CHUNK, V), k.dtype)
    zero, ds, dc, dh = np.zeros(V, k.dtype), np.empty(V, k.dtype), np.empty(V, k.dtype), dh_0[m]
    for g in range(gate_count):
        copy_matrix(dR_last[first + g * H], dR[first + g * H])
        _replay(first + g * H, b, k, beta, u, R_0, reset, starts[g])
    copy(dh_last[m], dh)
    if lstm:
        copy(dc_last[m], dc)
    columns = V
    for chunk in range((T - 1) // CHUNK, -1, -1):
        start, stop = chunk * CHUNK, min(chunk * CHUNK + CHUNK, T)
        # Every step of the chunk reads the writes before it: here they lie side by side.
        for g in range(gate_count):
            _load_writes(first + g * H, start, stop, k, beta, u, keys[g], writes[g])
        for t in range(stop - 1, start - 1, -1):
            fresh, live = last_reset[t] == t, last_reset[t] < start
            cut = cuts(t, horizon)
            ends = cut or fresh
            for j in range(V):
                dh[j] += dy[t, m, j]
            # dz first: the fast matrices pass on what reaches their reads, which are summed in z.
            if lstm:
                c_prev = zero if fresh else cells[t - 1, m] if t > 0 else c_0[m]
                _lstm_adjoint(
                    gates[t, first], gates[t, second], gates[t, third], cells[t, m], c_prev,
                    dh, dc, dz[t, first], dz[t, second], dz[t, third],
                )  # fmt: skip
            elif softmax_output:
                softmax_adjoint(gates[t, m], dh, dz[t, m])
            else:
                copy(dh, dz[t, m])
            clear(ds)
            s, since = queries[t, m], 0 if live else last_reset[t] - start
            for g in range(gate_count):
                n = first + g * H
                da, dk_t, dv_t = dz[t, n], dk[t, n], dv[t, n]
                dbeta[t, n] = _adjoint(
                    dR[n], columns, starts[g, chunk], live, k[t, n], beta[t, n], u[t, n], s,
                    da, dk_t, dv_t, ds,
                )  # fmt: skip
                _add_writes(keys[g], writes[g], since, t - start, da, dk_t, dv_t, ds)
                if ends:
                    clear_matrix(dR[n])
            columns = 0 if cut else V
            if ends:
                clear(dh)
                clear(dc)
            elif softmax_query:
                softmax_adjoint(s, ds, dh)
            else:
                copy(ds, dh)
    if lstm:
        copy(dc, dc_0[m])


@compiled
def _forward_serial(zero, sizes, inputs, results, softmax_query, softmax_output):
    _, B, H, _, _ = sizes
    given = (*_inputs(zero, sizes, inputs), H, softmax_query, softmax_output)
    made = _results(zero, sizes, results)
    for m in range(B * H):
        _forward_head(m, given, made)


@compiled_parallel
def _forward_parallel(zero, sizes, inputs, results, softmax_query, softmax_output):
    _, B, H, _, _ = sizes
    given = (*_inputs(zero, sizes, inputs), H, softmax_query, softmax_output)
    made = _results(zero, sizes, results)
    for m in numba.prange(B * H):
        _forward_head(m, given, made)


@compiled
def _backward_serial(zero, sizes, inputs, saved, gradients, softmax_query, softmax_output, horizon):
    _, B, H, _, _ = sizes
    given = (*_reads(zero, sizes, inputs), H, softmax_query, softmax_output, horizon)
    kept, wanted = _saved(zero, sizes, saved), _gradients(zero, sizes, gradients)
    for m in range(B * H):
        _backward_head(m, given, kept, wanted)


@compiled_parallel
def _backward_parallel(
    zero, sizes, inputs, saved, gradients, softmax_query, softmax_output, horizon
):
    _, B, H, _, _ = sizes
    given = (*_reads(zero, sizes, inputs), H, softmax_query, softmax_output, horizon)
    kept, wanted = _saved(zero, sizes, saved), _gradients(zero, sizes, gradients)
    for m in numba.prange(B * H):
        _backward_head(m, given, kept, wanted)


def forward_gates(
    sizes: tuple[int, ...],
    inputs: Tensors,
    results: Tensors,
    softmax_query: bool,
    softmax_output: bool,
) -> None:
    """Fill the results of either op.

    sizes    T, B, H, V and the number of gates
    inputs   z, k, v, beta, R, h, c, reset
    results  y, the R, h and c after; of every step the query, u, the gates and c

    The fast RNN has no c: it is None, and so are the c after and that of every step; its "gates"
    are y where that is a softmax, else empty.
    """
    flags = (softmax_query, softmax_output)
    launch(_forward_serial, _forward_parallel, sizes, [inputs], [results], *flags)


def backward_gates(
    sizes: tuple[int, ...],
    inputs: Tensors,
    saved: Tensors,
    gradients: Tensors,
    softmax_query: bool,
    softmax_output: bool,
    horizon: int,
) -> None:
    """Fill the gradients of either op.

    sizes      as in ``forward_gates``
    inputs     k, beta, R, c, reset
    saved      of every step the query, u, the gates, c and dy; the gradients of the R, h and c
               after
    gradients  of z, k, v, beta, R, h and c

    What the fast RNN has not is None, or empty, as in ``forward_gates``.
    """
    flags = (softmax_query, softmax_output, horizon)
    launch(_backward_serial, _backward_parallel, sizes, [inputs, saved], [gradients], *flags)
