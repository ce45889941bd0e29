"""The fast-weight op over chunks of 32 steps, in torch: matrix products instead of a step loop.

"Parallelizing Linear Transformers with the Delta Rule over Sequence Length" (Yang et al., 2024),
with decay as in "Gated Delta Networks" (Yang et al., 2024). In one chunk, with a_t the decay of
step t, W the state before the chunk and n its last step:

    M_ts = a_{s+1} ... a_t  for s <= t, else 0        e_t = a_1 ... a_t
    u_t + sum_{s<t} M_ts b_s (k_t.k_s) u_s = v_t - e_t W k_t          (delta; u = v for sum)
    y_t = e_t W q_t + sum_{s<=t} M_ts b_s (q_t.k_s) u_s
    W' = e_n W + sum_s M_ns b_s u_s k_s^T

The u of a chunk solve one unit-triangular system. A reset is a decay of exactly zero. A gradient
horizon starts a chunk of its own, so one below 32 steps takes longer.
"""

import torch
from torch import Tensor

from fwp_rl.kernels.chunks import chunks, decays
from fwp_rl.kernels.horizon import cuts

__all__ = ["fast_weight_chunkwise"]

CHUNK = 32


def fast_weight_chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    state: Tensor,
    log_decay: Tensor | None,
    reset: Tensor | None,
    rule: str,
    horizon: int,
) -> tuple[Tensor, Tensor]:
    """float32 or float64, any device, gradients by autograd. Arguments as in ``fast_weight``."""
    q, k, v = (x.permute(1, 2, 0, 3) for x in (q, k, v))  # [B, H, T, .]
    weighted_k = k if beta is None else k * beta.permute(1, 2, 0).unsqueeze(-1)
    log_a = q.new_zeros(1, 1, q.shape[2]) if log_decay is None else log_decay.permute(1, 2, 0)
    if reset is not None:
        log_a = torch.where(reset.T.unsqueeze(1), float("-inf"), log_a)  # [B, 1 or H, T]
    W = state
    ys = []
    for start, stop in chunks(q.shape[2], horizon, CHUNK):
        part = slice(start, stop)
        if cuts(start, horizon):
            W = W.detach()
        if reset is not None:  # the decay of zero would keep what is not finite
            W = W.masked_fill(reset[start, :, None, None, None], 0)
        inputs = (x[:, :, part] for x in (q, k, weighted_k, v))
        y, W = _chunk(*inputs, log_a=log_a[..., part], W=W, delta=rule == "delta")
        ys.append(y)
    return torch.cat(ys, dim=2).permute(2, 0, 1, 3), W


def _chunk(
    q: Tensor, k: Tensor, weighted_k: Tensor, v: Tensor, *, log_a: Tensor, W: Tensor, delta: bool
) -> tuple[Tensor, Tensor]:
    between, since_start = decays(log_a)  # M [B, H, n, n], e [B, H, n, 1]
    u = v
    if delta:
        interaction = (k @ weighted_k.mT) * between.tril(-1)
        from_state = since_start * (k @ W.mT)
        u = torch.linalg.solve_triangular(
            interaction, v - from_state, upper=False, unitriangular=True
        )
    y = since_start * (q @ W.mT) + ((q @ weighted_k.mT) * between) @ u
    to_end = between[..., -1, :, None]
    return y, since_start[..., -1:, :] * W + (u * to_end).mT @ weighted_k
