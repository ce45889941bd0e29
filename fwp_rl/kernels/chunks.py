"""What the chunkwise forms of ops share: where chunks of steps end, and decays inside of one."""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["chunks", "decays"]


def chunks(T: int, horizon: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and stop of every chunk: of at most ``size`` steps, with none that a horizon cuts
    inside."""
    span = horizon or T
    for first in range(0, T, span):
        end = min(first + span, T)
        for start in range(first, end, size):
            yield start, min(start + size, end)


def decays(log_a: Tensor) -> tuple[Tensor, Tensor]:
    """Products of the decays [..., n] between every two steps [..., n, n], and from the start to
    every step [..., n, 1].

    The logs are summed over each span by itself: differences of one running sum would lose
    digits, and make NaN of two infinities.
    """
    n = log_a.shape[-1]
    lower = torch.ones(n, n, dtype=torch.bool, device=log_a.device).tril()
    spans = log_a.unsqueeze(-1).expand(*log_a.shape, n).masked_fill(~lower.tril(-1), 0)
    between = spans.cumsum(-2).masked_fill(~lower, float("-inf")).exp()
    return between, log_a.cumsum(-1).exp().unsqueeze(-1)
