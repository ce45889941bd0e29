"""Means over the steps that count, and what is built from them."""

import torch
from torch import Tensor

__all__ = ["explained_variance", "masked_mean", "masked_sum", "normalize"]


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of x over the entries where the mask is true."""
    return torch.where(mask, x, torch.zeros_like(x)).sum()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x over the entries where the mask is true; 0 where there are none."""
    return masked_sum(x, mask) / mask.sum().clamp(min=1)


def normalize(x: Tensor, mask: Tensor, epsilon: float = 1e-8) -> Tensor:
    """x shifted and scaled to mean 0 and standard deviation 1 over the true entries of the mask.

    Where all of them are equal they become 0, and so does one that is alone: there is no spread to
    measure it by.
    """
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    return (x - mean) / (variance.sqrt() + epsilon)


@torch.no_grad()
def explained_variance(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 − Var[target − prediction] / Var[target] over the true entries of the mask: 1 is perfect,
    0 is no better than a constant; NaN where the target does not vary."""

    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)) ** 2, mask)

    spread = variance(target)
    return torch.where(
        spread > 0, 1 - variance(target - prediction) / spread, torch.full_like(spread, torch.nan)
    )
