"""The fast-RNN op as its equations stand, one step at a time: the truth for every backend."""

import torch
from torch import Tensor

from fwp_rl.kernels.horizon import cuts

__all__ = ["fast_rnn_reference"]


def fast_rnn_reference(
    z: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    R: Tensor,
    y_prev: Tensor,
    reset: Tensor | None,
    query: str,
    output: str,
    horizon: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Any dtype, any device, gradients by autograd. Arguments as in ``fast_rnn``; returns y, R
    and the last y."""
    y = y_prev
    ys = []
    for t in range(z.shape[0]):
        if cuts(t, horizon):
            R, y = R.detach(), y.detach()
        if reset is not None:
            R = R.masked_fill(reset[t, :, None, None, None], 0)
            y = y.masked_fill(reset[t, :, None, None], 0)
        write = beta[t, :, :, None] * (v[t] - torch.einsum("bhij,bhj->bhi", R, k[t]))
        R = R + torch.einsum("bhi,bhj->bhij", write, k[t])
        y = z[t] + torch.einsum("bhij,bhj->bhi", R, y.softmax(-1) if query == "softmax" else y)
        if output == "softmax":
            y = y.softmax(-1)
        ys.append(y)
    return torch.stack(ys), R, y
