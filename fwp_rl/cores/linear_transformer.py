"""Linear Transformer: a fast weight memory that only adds.

Katharopoulos et al., "Transformers are RNNs" (2020), as a fast weight programmer in Schlag et al.,
"Linear Transformers Are Secretly Fast Weight Programmers" (2021). Per head, x after LayerNorm:

    q, k, v = slow net(x);   W ← W + v ⊗ φ(k);   y = W φ(q)

With the attention normaliser z ← z + φ(k) the read is y = W φ(q) / (z · φ(q)). z is kept as one
more row of W, the one that is written with the value 1. State: per layer W [B, H, V, K], or
[B, H, V + 1, K] with z.
"""

from dataclasses import dataclass
from typing import Final

import torch.nn.functional as F
from torch import Tensor

from fwp_rl.cores.base import CORES, Core, record
from fwp_rl.cores.fast_weight_block import (
    FastWeightCore,
    Memory,
    NormalisedConfig,
    QueryKeyValue,
)
from fwp_rl.kernels.fast_weight import fast_weight
from fwp_rl.types import State

__all__ = ["LinearTransformerConfig"]

_EPSILON: Final = 1e-6


@CORES.register("linear_transformer")
@dataclass(frozen=True, kw_only=True)
class LinearTransformerConfig(NormalisedConfig):
    """Fast weights written by the sum rule: adds every association, never corrects one."""

    def build(self, input_size: int) -> Core:
        return FastWeightCore(self, input_size, lambda layer: _SumMemory(self))


class _SumMemory(Memory):
    cuts_gradients = True

    def __init__(self, config: LinearTransformerConfig) -> None:
        super().__init__()
        self.slow_net = QueryKeyValue(config)
        self.normalised = config.attention_normaliser
        rows = config.value_size + self.normalised
        self.state_shapes = ((config.heads, rows, self.slow_net.key_size),)

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        q, k, v, _ = self.slow_net(x)
        if self.normalised:
            v = F.pad(v, (0, 1), value=1.0)
        y, W = fast_weight(
            q, k, v, None, state[0], reset=reset, gradient_horizon=self.horizon, rule="sum"
        )
        record("fast_weight", W)
        if self.normalised:
            y = y[..., :-1] / (y[..., -1:] + _EPSILON)
        return y.flatten(-2), (W,)
