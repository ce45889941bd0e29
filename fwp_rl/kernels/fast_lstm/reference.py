"""The fast-LSTM op as its equations stand, one step at a time: the truth for every backend."""

import torch
from torch import Tensor

from fwp_rl.kernels.horizon import cuts

__all__ = ["fast_lstm_reference"]


def fast_lstm_reference(
    z: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    R: Tensor,
    c: Tensor,
    h: Tensor,
    reset: Tensor | None,
    horizon: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Any dtype, any device, gradients by autograd. Arguments as in ``fast_lstm``; returns y, R
    and the last c and h."""
    ys = []
    for t in range(z.shape[0]):
        if cuts(t, horizon):
            R, c, h = R.detach(), c.detach(), h.detach()
        if reset is not None:
            R = R.masked_fill(reset[t, :, None, None, None, None], 0)
            c = c.masked_fill(reset[t, :, None, None], 0)
            h = h.masked_fill(reset[t, :, None, None], 0)
        write = beta[t, ..., None] * (v[t] - torch.einsum("bghij,bghj->bghi", R, k[t]))
        R = R + torch.einsum("bghi,bghj->bghij", write, k[t])
        i, u, o = (z[t] + torch.einsum("bghij,bhj->bghi", R, h.softmax(-1))).unbind(1)
        i, o = i.sigmoid(), o.sigmoid()
        c = i * u + (1 - i) * c
        h = c * o
        ys.append(h)
    return torch.stack(ys), R, c, h
