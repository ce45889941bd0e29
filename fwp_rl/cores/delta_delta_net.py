"""Delta Delta Net: a delta net that programs a delta net.

Irie et al., "Going Beyond Linear Transformers with Recurrent Fast Weight Programmers" (2021). Per
head, x after LayerNorm, φ normalised:

    q, k, v, b = slow net(x);   β = σ(b)
    U ← U + β (v − U φ(k)) ⊗ φ(k);     v', q', k', b' = U φ(q);   β' = σ(b')
    W ← W + β' (v' − W φ(k')) ⊗ φ(k');     y = W φ(q')

v is as long as what is read from U, V + 2 K + 1 numbers. The authors' slow base weights of U, an
option of theirs, are left out. State: per layer U [B, H, V + 2 K + 1, φ(K)] and W [B, H, V, φ(K)],
where φ(K) is the length of a mapped key.
"""

from dataclasses import dataclass

import torch
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

__all__ = ["DeltaDeltaNetConfig"]


@CORES.register("delta_delta_net")
@dataclass(frozen=True, kw_only=True)
class DeltaDeltaNetConfig(FastWeightConfig):
    """A delta net whose fast weights are the slow net of a second one."""

    def build(self, input_size: int) -> Core:
        return FastWeightCore(self, input_size, lambda layer: _DeltaDeltaMemory(self))


class _DeltaDeltaMemory(Memory):
    cuts_gradients = True

    def __init__(self, config: DeltaDeltaNetConfig) -> None:
        super().__init__()
        H, K, V = config.heads, config.key_size, config.value_size
        self.slow_net = QueryKeyValue(config, extra=2 * K + 2)
        self.sizes = [V, K, K, 1]
        width = self.slow_net.key_size
        self.state_shapes = ((H, sum(self.sizes), width), (H, V, width))

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        q, k, *rest = self.slow_net(x)
        v, rate = torch.cat(rest, dim=-1).split([sum(self.sizes), 1], dim=-1)
        beta = rate.squeeze(-1).sigmoid()
        emitted, U = fast_weight(
            q, k, v, beta, state[0], reset=reset, gradient_horizon=self.horizon, rule="delta"
        )
        v, q, k, rate = emitted.split(self.sizes, dim=-1)
        q, k = self.slow_net.feature_map(q), self.slow_net.feature_map(k)
        fast_beta = rate.squeeze(-1).sigmoid()
        y, W = fast_weight(
            q, k, v, fast_beta, state[1], reset=reset, gradient_horizon=self.horizon, rule="delta"
        )
        record("beta", beta)
        record("programming_fast_weight", U)
        record("fast_beta", fast_beta)
        record("fast_weight", W)
        return y.flatten(-2), (U, W)
