"""The general form of the fast-weight op as its equations stand, one step at a time: the truth for
every backend."""

import torch
from torch import Tensor

from fwp_rl.kernels.horizon import cuts

__all__ = ["fast_weight_channels_reference"]


def fast_weight_channels_reference(
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
    """Any dtype, any device, gradients by autograd. Arguments as in ``fast_weight_channels``; what
    is erased is that of ``erase``, whatever the rule."""
    W = state
    ys = []
    for t in range(q.shape[0]):
        if cuts(t, horizon):
            W = W.detach()
        if reset is not None:
            W = W.masked_fill(reset[t, :, None, None, None], 0)
        W = W * log_decay[t, :, :, None].exp()
        u = v[t] if erase is None else v[t] - torch.einsum("bhvk,bhk->bhv", W, erase[t])
        W = W + torch.einsum("bhv,bhk->bhvk", beta[t, :, :, None] * u, k[t])
        ys.append(torch.einsum("bhvk,bhk->bhv", W, q[t]))
    return torch.stack(ys), W
