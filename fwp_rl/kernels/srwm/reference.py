"""The self-referential weight matrix as its equations stand, one step at a time: the truth for
every backend."""

import torch
from torch import Tensor

from fwp_rl.kernels.horizon import cuts

__all__ = ["srwm_reference"]


def srwm_reference(
    x: Tensor,
    W_y: Tensor,
    W_q: Tensor,
    W_k: Tensor,
    W_b: Tensor,
    dW_y: Tensor,
    dW_q: Tensor,
    dW_k: Tensor,
    dW_b: Tensor,
    reset: Tensor | None,
    horizon: int,
) -> tuple[Tensor, ...]:
    """Any dtype, any device, gradients by autograd. Arguments as in ``srwm``, with the state in
    its four parts; returns y and the four parts after."""
    base = (W_y, W_q, W_k, W_b)
    shift: tuple[Tensor, ...] = (dW_y, dW_q, dW_k, dW_b)
    ys = []
    for t in range(x.shape[0]):
        if cuts(t, horizon):
            shift = tuple(dW.detach() for dW in shift)
        if reset is not None:
            shift = tuple(dW.masked_fill(reset[t, :, None, None, None], 0) for dW in shift)
        current = [W + dW for W, dW in zip(base, shift, strict=True)]
        y, q, k, b = (_read(M, x[t].softmax(-1)) for M in current)
        ys.append(y)
        k, q = k.softmax(-1), q.softmax(-1)
        beta = b.sigmoid().unbind(-1)  # one rate per block
        shift = tuple(
            dW + torch.einsum("bhi,bhk->bhik", rate[..., None] * _read(M, q - k), k)
            for M, dW, rate in zip(current, shift, beta, strict=True)
        )
    return torch.stack(ys), *shift


def _read(M: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("bhik,bhk->bhi", M, x)
