"""The fast-weight op as its equations stand, one step at a time: the truth for every backend."""

import torch
from torch import Tensor

from fwp_rl.kernels.horizon import cuts

__all__ = ["fast_weight_reference"]


def fast_weight_reference(
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
    """Any dtype, any device, gradients by autograd. Arguments as in ``fast_weight``."""
    W = state
    ys = []
    for t in range(q.shape[0]):
        if cuts(t, horizon):
            W = W.detach()
        if reset is not None:
            W = W.masked_fill(reset[t, :, None, None, None], 0)
        if log_decay is not None:
            W = W * log_decay[t, :, :, None, None].exp()
        write = v[t]
        if rule == "delta":
            write = write - torch.einsum("bhvk,bhk->bhv", W, k[t])
        if beta is not None:
            write = write * beta[t, :, :, None]
        W = W + torch.einsum("bhv,bhk->bhvk", write, k[t])
        ys.append(torch.einsum("bhvk,bhk->bhv", W, q[t]))
    return torch.stack(ys), W
