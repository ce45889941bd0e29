"""The diagonal op as its equation stands, one step at a time: the truth for every backend."""

import torch
from torch import Tensor

from fwp_rl.kernels.horizon import cuts

__all__ = ["diagonal_reference"]


def diagonal_reference(
    x: Tensor, a: Tensor, state: Tensor, reset: Tensor | None, horizon: int
) -> tuple[Tensor, Tensor]:
    """Any dtype, any device, gradients by autograd. Arguments as in ``diagonal``."""
    h = state
    ys = []
    for t in range(x.shape[0]):
        if cuts(t, horizon):
            h = h.detach()
        if reset is not None:
            h = h.masked_fill(reset[t].view(-1, *[1] * (h.ndim - 1)), 0)
        factor = a[t] if a.ndim == x.ndim else a
        h = (factor * h if x.ndim == 4 else _complex_product(factor, h)) + x[t]
        ys.append(h)
    return torch.stack(ys), h


def _complex_product(a: Tensor, h: Tensor) -> Tensor:
    """a [..., 2, H, V] and h [B, 2, H, V] -> [B, 2, H, V]"""
    (a_re, a_im), (h_re, h_im) = a.unbind(-3), h.unbind(-3)
    return torch.stack([a_re * h_re - a_im * h_im, a_re * h_im + a_im * h_re], -3)
