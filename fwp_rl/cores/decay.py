"""By how much memories decay, from what they are shown."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwp_rl.cores.base import record

__all__ = ["Decay", "narrow", "record_decay"]


class Decay(nn.Module):
    """log α = −exp(A) step(x), below 0, from x [T, B, D]: [T, B, H] or, with channels, [T, B, H,
    channels]. step(x) = softplus(w · x + d); A for each head."""

    def __init__(
        self, size: int, heads: int, channels: int | None = None, bottleneck: int | None = None
    ) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = (heads,) if channels is None else (heads, channels)
        self.projection = narrow(size, bottleneck, math.prod(self.shape))
        # 1 − u of u in [0, 1) is never 0, whose log would be −∞
        self.log_speed = nn.Parameter((16 * (1 - torch.rand(heads))).log())
        step = torch.empty(self.shape).uniform_(math.log(0.001), math.log(0.1)).exp()
        self.bias = nn.Parameter(step.expm1().log())  # the inverse of softplus

    def forward(self, x: Tensor) -> Tensor:
        return self.log_decay(self.step(x))

    def step(self, x: Tensor) -> Tensor:
        """How far the memory moves, above 0."""
        projected = self.projection(x)
        if len(self.shape) > 1:
            projected = projected.unflatten(-1, self.shape)
        step: Tensor = F.softplus(projected + self.bias)
        return step

    def log_decay(self, step: Tensor) -> Tensor:
        speed = self.log_speed.exp()
        log_decay: Tensor = -(speed if len(self.shape) == 1 else speed[:, None]) * step
        return log_decay


def record_decay(log_decay: Tensor) -> None:
    """Report what is kept, [T, B, H]: of channels that decay each by itself, the mean."""
    record("decay", lambda: log_decay.exp() if log_decay.ndim == 3 else log_decay.exp().mean(-1))


def narrow(size: int, bottleneck: int | None, output_size: int, *, bias: bool = False) -> nn.Module:
    """A linear layer, or two with ``bottleneck`` numbers between them."""
    if bottleneck is None:
        return nn.Linear(size, output_size, bias=bias)
    return nn.Sequential(
        nn.Linear(size, bottleneck, bias=False), nn.Linear(bottleneck, output_size, bias=bias)
    )
