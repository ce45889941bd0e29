"""minGRU: a GRU whose gate and candidate do not see the hidden vector.

Feng et al., "Were RNNs All We Needed?" (2024), section 3.1. x after LayerNorm, ⊙ elementwise:

    z = σ(W_z x + b_z);   h ← (1 − z) ⊙ h + z ⊙ (W_h x + b_h);   y = h

What is kept, 1 − z, is computed as σ(−(W_z x + b_z)), which loses no digits where z is near 1.
The paper runs the recurrence over logarithms (appendix B), as one scan for all steps, and so needs
candidates that are positive: g(a) = a + 1/2, or σ(a) below 0. Here the op runs the equation itself,
with candidates of either sign.

State: per layer h [B, state_size].
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from fwp_rl.config import Range
from fwp_rl.cores.base import CORES, Core
from fwp_rl.cores.fast_weight_block import BlockConfig, FastWeightCore, Memory
from fwp_rl.kernels.diagonal import diagonal
from fwp_rl.types import State

__all__ = ["MinGRUConfig"]


@CORES.register("min_gru")
@dataclass(frozen=True, kw_only=True)
class MinGRUConfig(BlockConfig):
    """Running means at rates that the input sets: a GRU that does not see its state."""

    state_size: Annotated[int | None, Range(1)] = None
    """Size of each layer's state; none: hidden_size. The paper compares 1 to 4 times as many."""

    def build(self, input_size: int) -> Core:
        core = FastWeightCore(self, input_size, lambda layer: _MinGRU(self))
        core.state_names = tuple(f"state of layer {i + 1}" for i in range(self.layers))
        return core


class _MinGRU(Memory):
    cuts_gradients = True

    def __init__(self, config: MinGRUConfig) -> None:
        super().__init__()
        self.output_size = config.state_size or config.hidden_size
        self.slow_net = nn.Linear(config.hidden_size, 2 * self.output_size)
        self.state_shapes = ((self.output_size,),)

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        gate, candidate = self.slow_net(x).unsqueeze(2).chunk(2, dim=-1)  # [T, B, 1, N]
        y, h = diagonal(
            gate.sigmoid() * candidate,
            (-gate).sigmoid(),
            state[0].unsqueeze(1),
            reset=reset,
            gradient_horizon=self.horizon,
        )
        return y.squeeze(2), (h.squeeze(1),)
