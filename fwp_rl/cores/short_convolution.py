"""What a memory sees of the last few steps of an episode: lagged inputs, and a causal convolution
over them, each channel for itself."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ShortConvolution", "lagged"]


class ShortConvolution(nn.Module):
    """y_t = Σ_j w_j ⊙ x_{t−j} over the last ``size`` steps of the episode.

    forward(x [T, B, C], recent [B, size − 1, C], reset [T, B], horizon) -> y [T, B, C], recent
    recent: the inputs before, the latest first; zeros where the episode had none
    horizon: 0, or where gradients to earlier inputs end, see ``fwp_rl.kernels.horizon``
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.state_shape = (size - 1, channels)
        self.weight = nn.Parameter(torch.empty(size, channels))
        bound = size**-0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(
        self, x: Tensor, recent: Tensor, reset: Tensor, horizon: int
    ) -> tuple[Tensor, Tensor]:
        inputs, recent = lagged(x, recent, reset, horizon)
        y = sum(w * x for w, x in zip(self.weight, inputs, strict=True))
        return y, recent


def lagged(x: Tensor, recent: Tensor, reset: Tensor, horizon: int) -> tuple[list[Tensor], Tensor]:
    """x_t, x_{t−1}, …, each [T, B, C], as far back as ``recent`` knows, and ``recent`` after the
    last step; arguments as those of ``ShortConvolution``."""
    steps, before = x.shape[0], recent.shape[1]
    known = torch.cat([recent.movedim(1, 0).flip(0), x])
    resets = F.pad(reset, (0, 0, before, 0))
    found = [x]
    forgotten = torch.zeros_like(reset)
    for lag in range(1, before + 1):
        # x_{t−lag} is of another episode if one began at t − lag + 1 or later
        start = before - lag
        forgotten = forgotten | resets[start + 1 : start + 1 + steps]
        past = known[start : start + steps]
        if 0 < horizon < steps:
            past = _cut(past, lag, horizon)
        found.append(past.masked_fill(forgotten[..., None], 0))
    return found, torch.stack([x[-1] for x in found[:-1]], dim=1)


def _cut(past: Tensor, lag: int, horizon: int) -> Tensor:
    """x_{t−lag} [T, B, C], a constant where a horizon ends the gradient before a step between."""
    t = torch.arange(len(past), device=past.device)
    ended = (t >= horizon) & (t % horizon < lag)
    return torch.where(ended[:, None, None], past.detach(), past)
