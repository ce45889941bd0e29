"""The recurrent-delta op as its equations stand, one step at a time: the truth for all backends."""

import torch
from torch import Tensor

from fwp_rl.kernels.horizon import cuts

__all__ = ["recurrent_delta_reference"]


def recurrent_delta_reference(
    xq: Tensor,
    xk: Tensor,
    xv: Tensor,
    xb: Tensor,
    R_q: Tensor,
    R_k: Tensor,
    R_v: Tensor,
    r_b: Tensor,
    W: Tensor,
    y_prev: Tensor,
    reset: Tensor | None,
    horizon: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Any dtype, any device, gradients by autograd. Arguments as in ``recurrent_delta``; returns
    y, W and the last y."""
    y = y_prev
    ys = []
    for t in range(xq.shape[0]):
        if cuts(t, horizon):
            W, y = W.detach(), y.detach()
        if reset is not None:
            W = W.masked_fill(reset[t, :, None, None, None], 0)
            y = y.masked_fill(reset[t, :, None, None], 0)
        s = y.tanh()
        q = (xq[t] + torch.einsum("hkv,bhv->bhk", R_q, s)).softmax(-1)
        k = (xk[t] + torch.einsum("hkv,bhv->bhk", R_k, s)).softmax(-1)
        v = xv[t] + torch.einsum("hwv,bhv->bhw", R_v, s)
        beta = (xb[t] + torch.einsum("hv,bhv->bh", r_b, s)).sigmoid()
        write = beta.unsqueeze(-1) * (v - torch.einsum("bhvk,bhk->bhv", W, k))
        W = W + torch.einsum("bhv,bhk->bhvk", write, k)
        y = torch.einsum("bhvk,bhk->bhv", W, q)
        ys.append(y)
    return torch.stack(ys), W, y
