"""The reference of each op against its equations, written out one number at a time."""

import itertools
import math

import numpy as np
import pytest

from .cases import EVERY_CASE, over


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def softmax(x):
    total = sum(math.exp(a) for a in x)
    return [math.exp(a) / total for a in x]


def identity(x):
    return list(x)


def heads(x):
    """t, b, h of x [T, B, H, ...], in the order of time."""
    return itertools.product(*map(range, x.shape[:3]))


def write(W, strength, error, k):
    for i, j in itertools.product(range(len(error)), range(len(k))):
        W[i, j] += strength * error[i] * k[j]


def fast_weight(q, k, v, beta, state, log_decay, reset, rule):
    W, y = state, np.zeros_like(v)
    for at in heads(q):
        t, *bh = at
        M = W[tuple(bh)]
        if reset[t, bh[0]]:
            M[:] = 0
        M *= 1 if log_decay is None else math.exp(log_decay[at])
        target = [
            v_i - (dot(row, k[at]) if rule == "delta" else 0)
            for v_i, row in zip(v[at], M, strict=True)
        ]
        write(M, 1 if beta is None else beta[at], target, k[at])
        y[at] = [dot(row, q[at]) for row in M]
    return {"y": y, "state": W}


def fast_weight_channels(q, k, v, beta, state, erase, log_decay, reset, rule):
    W, y = state, np.zeros_like(v)
    for at in heads(q):
        t, *bh = at
        M = W[tuple(bh)]
        if reset[t, bh[0]]:
            M[:] = 0
        for j, log_a in enumerate(log_decay[at]):
            M[:, j] *= math.exp(log_a)
        read = [0 if rule == "sum" else dot(row, erase[at]) for row in M]
        write(M, beta[at], [v_i - x for v_i, x in zip(v[at], read, strict=True)], k[at])
        y[at] = [dot(row, q[at]) for row in M]
    return {"y": y, "state": W}


def recurrent_delta(xq, xk, xv, xb, R_q, R_k, R_v, r_b, W, y_prev, reset):
    y = np.zeros_like(xv)
    for at in heads(xv):
        t, b, h = at
        M, last = W[b, h], y_prev[b, h]
        if reset[t, b]:
            M[:] = last[:] = 0
        s = [math.tanh(a) for a in last]
        q = softmax([x + dot(R, s) for x, R in zip(xq[at], R_q[h], strict=True)])
        k = softmax([x + dot(R, s) for x, R in zip(xk[at], R_k[h], strict=True)])
        v = [x + dot(R, s) for x, R in zip(xv[at], R_v[h], strict=True)]
        error = [v_i - dot(row, k) for v_i, row in zip(v, M, strict=True)]
        write(M, sigmoid(xb[at] + dot(r_b[h], s)), error, k)
        last[:] = y[at] = [dot(row, q) for row in M]
    return {"y": y, "W": W, "y_prev": y_prev}


def fast_rnn(z, k, v, beta, R, y_prev, reset, query, output):
    maps = {"softmax": softmax, "identity": identity}
    y = np.zeros_like(z)
    for at in heads(z):
        t, b, h = at
        M, last = R[b, h], y_prev[b, h]
        if reset[t, b]:
            M[:] = last[:] = 0
        s = maps[query](last)
        error = [v_i - dot(row, k[at]) for v_i, row in zip(v[at], M, strict=True)]
        write(M, beta[at], error, k[at])
        a = [z_i + dot(row, s) for z_i, row in zip(z[at], M, strict=True)]
        last[:] = y[at] = maps[output](a)
    return {"y": y, "R": R, "y_prev": y_prev}


def fast_lstm(z, k, v, beta, R, c, h, reset):
    y = np.zeros_like(z[:, :, 0])
    for t, b, n in heads(y):
        if reset[t, b]:
            R[b, :, n] = c[b, n] = h[b, n] = 0
        s, a = softmax(h[b, n]), []
        for g in range(3):
            at, M = (t, b, g, n), R[b, g, n]
            error = [v_i - dot(row, k[at]) for v_i, row in zip(v[at], M, strict=True)]
            write(M, beta[at], error, k[at])
            a.append([z_i + dot(row, s) for z_i, row in zip(z[at], M, strict=True)])
        for i, (into, candidate, out) in enumerate(zip(*a, strict=True)):
            c[b, n, i] = sigmoid(into) * candidate + (1 - sigmoid(into)) * c[b, n, i]
            h[b, n, i] = y[t, b, n, i] = c[b, n, i] * sigmoid(out)
    return {"y": y, "R": R, "c": c, "h": h}


def srwm(x, W_y, W_q, W_k, W_b, dW_y, dW_q, dW_k, dW_b, reset):
    base, shift = (W_y, W_q, W_k, W_b), (dW_y, dW_q, dW_k, dW_b)
    y = np.zeros((*x.shape[:3], W_y.shape[1]))
    for at in heads(x):
        t, b, h = at
        if reset[t, b]:
            for dW in shift:
                dW[b, h] = 0
        M = [W[h] + dW[b, h] for W, dW in zip(base, shift, strict=True)]
        s = softmax(x[at])
        y[at], q, k, rates = ([dot(row, s) for row in block] for block in M)
        q, k = softmax(q), softmax(k)
        for block, dW, rate in zip(M, shift, rates, strict=True):
            error = [dot(row, q) - dot(row, k) for row in block]
            write(dW[b, h], sigmoid(rate), error, k)
    return {"y": y, "dW_y": dW_y, "dW_q": dW_q, "dW_k": dW_k, "dW_b": dW_b}


def diagonal(x, a, state, reset):
    def numbers(parts):
        return parts[..., 0, :, :] + 1j * parts[..., 1, :, :] if x.ndim == 5 else parts

    def parts(numbers):
        return np.stack([numbers.real, numbers.imag], -3) if x.ndim == 5 else numbers

    added, factors, h = numbers(x), numbers(a), numbers(state)
    y = np.zeros_like(added)
    for at in np.ndindex(y.shape):
        (t, b), place = at[:2], at[1:]
        before = 0 if reset[t, b] else h[place]
        h[place] = y[at] = factors[at if a.ndim == x.ndim else at[2:]] * before + added[at]
    return {"y": parts(y), "state": parts(h)}


OPS = (fast_weight, fast_weight_channels, recurrent_delta, fast_rnn, fast_lstm, srwm, diagonal)
EQUATIONS = {f.__name__: f for f in OPS}


@pytest.mark.parametrize("reset", ["middle", "random"])
@over(EVERY_CASE)
def test_the_reference_is_its_equations(case, reset):
    inputs = case.inputs(T=6, B=2, H=2, K=4, V=3, reset=reset)
    got = case.run(inputs, "reference")
    arrays = {n: None if x is None else x.detach().numpy().copy() for n, x in inputs.items()}
    expected = EQUATIONS[case.name](**arrays, **case.options)
    assert got.keys() == expected.keys()
    for name, truth in expected.items():
        np.testing.assert_allclose(got[name].detach(), truth, rtol=1e-11, atol=1e-12, err_msg=name)
