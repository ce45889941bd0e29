"""Linear Recurrent Unit: complex numbers that fade and turn, each by itself, whatever the input.

Orvieto et al., "Resurrecting Recurrent Neural Networks for Long Sequences" (2023), section 3 and
appendix A. x after LayerNorm, B and C complex matrices, the rest real:

    λ = exp(−exp(ν) + i exp(θ));   h ← λ ⊙ h + exp(γ) ⊙ (B x);   y = GELU(Re(C h) + d ⊙ x)

|λ| = exp(−exp(ν)) is below 1 for any ν, and both magnitude and angle are learned. At first λ is
uniform on the ring between two radii, up to the largest phase, and exp(γ) = √(1 − |λ|²), which
gives h the size of B x however slowly it fades; γ is then learned by itself. Parts of B have
variance 1/(2 hidden_size), parts of C 1/state_size, d has 1. A linear layer follows, which is the
blocks', where the paper has a gated one.

State: per layer h [B, 2, state_size], real and imaginary parts.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwp_rl.config import ConfigError, Range
from fwp_rl.cores.base import CORES, Core
from fwp_rl.cores.fast_weight_block import BlockConfig, FastWeightCore, Memory
from fwp_rl.kernels.diagonal import diagonal
from fwp_rl.types import State

__all__ = ["LRUConfig"]


@CORES.register("lru")
@dataclass(frozen=True, kw_only=True)
class LRUConfig(BlockConfig):
    """A linear recurrence of complex numbers that fade and turn at learned rates; no gates."""

    state_size: Annotated[int | None, Range(1)] = None
    """Complex numbers in each layer's state; none: hidden_size."""
    min_radius: Annotated[float, Range(0, 1)] = 0.0
    """Least magnitude of the factors at first: what a number keeps in each step. The paper takes
    0.9 and more where what matters is long ago."""
    max_radius: Annotated[float, Range(0, 1)] = 1.0
    """Greatest magnitude at first; it stays below 1."""
    max_phase: Annotated[float, Range(0, 2 * math.pi)] = 2 * math.pi
    """Greatest angle of the factors at first; small ones turn slowly, and see slow changes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_radius < self.min_radius:
            raise ConfigError(
                f"max_radius: got {self.max_radius}, expected at least min_radius "
                f"({self.min_radius})"
            )

    def build(self, input_size: int) -> Core:
        core = FastWeightCore(self, input_size, lambda layer: _LRU(self))
        core.state_names = tuple(f"state of layer {i + 1}" for i in range(self.layers))
        return core


class _LRU(Memory):
    cuts_gradients = True

    def __init__(self, config: LRUConfig) -> None:
        super().__init__()
        D, N = config.hidden_size, config.state_size or config.hidden_size
        self.encode = nn.Linear(D, 2 * N, bias=False)  # B: real parts, then imaginary ones
        self.decode = nn.Linear(2 * N, D, bias=False)  # C: real parts, then minus imaginary ones
        self.skip = nn.Parameter(torch.randn(D))
        nn.init.normal_(self.encode.weight, std=(2 * D) ** -0.5)
        nn.init.normal_(self.decode.weight, std=N**-0.5)
        self.log_rate, self.log_angle, self.log_scale = map(nn.Parameter, _ring(config, N))
        self.state_shapes = ((2, N),)

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        radius, angle = (-self.log_rate.exp()).exp(), self.log_angle.exp()
        factor = torch.stack([radius * angle.cos(), radius * angle.sin()])  # [2, N]
        driven = self.encode(x).unflatten(-1, (2, -1)) * self.log_scale.exp()
        h, last = diagonal(
            driven.unsqueeze(3),  # one head: [T, B, 2, 1, N]
            factor.unsqueeze(1),
            state[0].unsqueeze(2),
            reset=reset,
            gradient_horizon=self.horizon,
        )
        y = self.decode(h.flatten(2)) + self.skip * x
        return F.gelu(y, approximate="tanh"), (last.squeeze(2),)


def _ring(config: LRUConfig, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """ν, θ and γ of a layer, [N] each: λ uniform on the ring, but not on its edges where their
    logarithms are infinite."""
    u, v = torch.rand(2, size, dtype=torch.float64)
    low, high = config.min_radius**2, config.max_radius**2
    square = (low + u * (high - low)).clamp(1e-12, 1 - 1e-6)
    phase = (v * config.max_phase).clamp_min(1e-6)
    log_rate = (-0.5 * square.log()).log()
    return log_rate.float(), phase.log().float(), (0.5 * (1 - square).log()).float()
