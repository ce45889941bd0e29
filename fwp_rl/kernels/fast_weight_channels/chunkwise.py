"""The general form of the fast-weight op over chunks of 16 steps, in torch.

As in ``fast_weight``, but every key channel has its own products of decays between two steps, so
they enter each dot product: what "Kimi Linear" (Kimi Team, 2025) does inside its sub-chunks. With
c_t the sum of the logs from the start of the chunk, W the state before it and n its last step:

    D_ts = exp(c_t - c_s)  for s <= t, else 0         E_t = exp(c_t)        vectors of K numbers
    u_t + sum_{s<t} b_s (e_t.(D_ts k_s)) u_s = v_t - W (E_t e_t)            (delta; u = v for sum)
    y_t = W (E_t q_t) + sum_{s<=t} b_s (q_t.(D_ts k_s)) u_s
    W'  = W diag(E_n) + sum_s b_s u_s (D_ns k_s)^T

No exponential is divided by another: decays as small as you like, and of exactly zero, which a
reset is, lose no digits. They take 16 K numbers a step and head.
"""

import torch
from torch import Tensor

from fwp_rl.kernels.chunks import chunks, decays
from fwp_rl.kernels.horizon import cuts

__all__ = ["fast_weight_channels_chunkwise"]

CHUNK = 16


def fast_weight_channels_chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    state: Tensor,
    erase: Tensor | None,
    log_decay: Tensor,
    reset: Tensor | None,
    rule: str,
    horizon: int,
) -> tuple[Tensor, Tensor]:
    """float32 or float64, any device, gradients by autograd. Arguments as in the reference."""
    q, k, v, log_a = (x.permute(1, 2, 0, 3) for x in (q, k, v, log_decay))  # [B, H, T, .]
    e = None if erase is None else erase.permute(1, 2, 0, 3)
    weighted_k = k * beta.permute(1, 2, 0).unsqueeze(-1)
    if reset is not None:
        log_a = torch.where(reset.T[:, None, :, None], float("-inf"), log_a)
    W = state
    ys = []
    for start, stop in chunks(q.shape[2], horizon, CHUNK):
        if cuts(start, horizon):
            W = W.detach()
        if reset is not None:  # the decay of zero would keep what is not finite
            W = W.masked_fill(reset[start, :, None, None, None], 0)
        qs, ks, vs, decay = (x[:, :, start:stop] for x in (q, weighted_k, v, log_a))
        y, W = _chunk(qs, ks, None if e is None else e[:, :, start:stop], vs, decay, W)
        ys.append(y)
    return torch.cat(ys, dim=2).permute(2, 0, 1, 3), W


def _chunk(
    q: Tensor, weighted_k: Tensor, e: Tensor | None, v: Tensor, log_a: Tensor, W: Tensor
) -> tuple[Tensor, Tensor]:
    between, since_start = decays(log_a.mT)  # D [B, H, K, n, n], E [B, H, K, n, 1]
    kept = since_start.squeeze(-1).mT  # [B, H, n, K]
    u = v
    if e is not None:
        interaction = _products(e, weighted_k, between)  # its diagonal counts as ones
        from_state = (kept * e) @ W.mT
        u = torch.linalg.solve_triangular(
            interaction, v - from_state, upper=False, unitriangular=True
        )
    y = (kept * q) @ W.mT + _products(q, weighted_k, between) @ u
    to_end = between[..., -1, :].mT
    return y, kept[..., -1:, :] * W + u.mT @ (to_end * weighted_k)


def _products(x: Tensor, k: Tensor, between: Tensor) -> Tensor:
    """x_t.(D_ts k_s) [B, H, n, n]"""
    return torch.einsum("bhtk,bhsk,bhkts->bhts", x, k, between)
