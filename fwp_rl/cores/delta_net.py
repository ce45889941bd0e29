"""Delta Net: a fast weight memory that corrects what it holds.

Schlag et al., "Linear Transformers Are Secretly Fast Weight Programmers" (2021), eq. 20-25; as an
agent's core in Irie et al., "Going Beyond Linear Transformers with Recurrent Fast Weight
Programmers" (2021). Per head, x after LayerNorm, φ normalised:

    q, k, v, b = slow net(x);   β = σ(b)
    W ← W + β (v − W φ(k)) ⊗ φ(k);   y = W φ(q)

State: per layer W [B, H, V, K].
"""

from dataclasses import dataclass

from torch import Tensor

from fwp_rl.cores.base import CORES, Core, record
from fwp_rl.cores.fast_weight_block import (
    FastWeightConfig,
    FastWeightCore,
    Memory,
    QueryKeyValue,
)
from fwp_rl.kernels.fast_weight import fast_weight
from fwp_rl.types import State

__all__ = ["DeltaNetConfig"]


@CORES.register("delta_net")
@dataclass(frozen=True, kw_only=True)
class DeltaNetConfig(FastWeightConfig):
    """Fast weights written by the delta rule: replaces what is stored under a key."""

    def build(self, input_size: int) -> Core:
        return FastWeightCore(self, input_size, lambda layer: _DeltaMemory(self, layer))


class _DeltaMemory(Memory):
    def __init__(self, config: DeltaNetConfig, layer: int) -> None:
        super().__init__()
        self.slow_net = QueryKeyValue(config, layer, extra=1)
        self.state_shapes = ((config.heads, config.value_size, self.slow_net.key_size),)

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        q, k, v, rate = self.slow_net(x)
        beta = rate.squeeze(-1).sigmoid()
        y, W = fast_weight(q, k, v, beta, state[0], reset=reset, rule="delta")
        record("beta", beta)
        record("fast_weight", W)
        return y.flatten(-2), (W,)
