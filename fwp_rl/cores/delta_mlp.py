"""Delta MLP: a fast net of several layers, each of them written by the delta rule.

Irie et al., "Going Beyond Linear Transformers with Recurrent Fast Weight Programmers" (2021). The
fast net of a head is a residual MLP; x after LayerNorm, φ = ELU + 1, sum-normalised:

    q and, for each block, k, v, b, k', v', b' = slow net(x);   β, β' = σ(b), σ(b')
    each block:  U ← U + β (v − U φ(k)) ⊗ φ(k);        a = U φ(LN(q))
                 W ← W + β' (v' − W φ(k')) ⊗ φ(k');    q ← q + W φ(a)
    y = q

U leads from the head's V features to 4 V, W back. The authors' slow net emits twice the numbers
that their fast net uses; here it emits those alone. State: per layer, for each block,
U [B, H, 4 V, V] and W [B, H, V, 4 V].
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from fwp_rl.config import Range
from fwp_rl.cores.base import CORES, Core, record
from fwp_rl.cores.fast_weight_block import FastWeightCore, HeadsConfig, Memory
from fwp_rl.cores.feature_maps import FeatureMap
from fwp_rl.kernels.fast_weight import fast_weight
from fwp_rl.types import State

__all__ = ["DeltaMLPConfig"]


@CORES.register("delta_mlp")
@dataclass(frozen=True, kw_only=True)
class DeltaMLPConfig(HeadsConfig):
    """A fast multi-layer perceptron, all of it written by the delta rule."""

    depth: Annotated[int, Range(1, 1000)] = 1
    """Residual blocks of the fast net, each with two fast weight matrices."""

    def build(self, input_size: int) -> Core:
        return FastWeightCore(self, input_size, lambda layer: _FastMLP(self))


class _FastMLP(Memory):
    cuts_gradients = True

    def __init__(self, config: DeltaMLPConfig) -> None:
        super().__init__()
        H, V = config.heads, config.value_size
        wide = 4 * V
        self.heads = H
        self.sizes = [V, *[V, wide, 1, wide, V, 1] * config.depth]
        self.slow_net = nn.Linear(config.hidden_size, H * sum(self.sizes), bias=False)
        self.norms = nn.ModuleList(nn.LayerNorm(V) for _ in range(config.depth))
        self.feature_map = FeatureMap("elu1", V)
        self.state_shapes = ((H, wide, V), (H, V, wide)) * config.depth

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        q, *rest = self.slow_net(x).unflatten(-1, (self.heads, -1)).split(self.sizes, dim=-1)
        phi, rates, after = self.feature_map, [], []
        for i, norm in enumerate(self.norms):
            a = norm(q)
            for layer in (2 * i, 2 * i + 1):
                k, v, rate = rest[3 * layer : 3 * layer + 3]
                beta = rate.squeeze(-1).sigmoid()
                a, W = fast_weight(
                    phi(a),
                    phi(k),
                    v,
                    beta,
                    state[layer],
                    reset=reset,
                    gradient_horizon=self.horizon,
                    rule="delta",
                )
                rates.append(beta)
                after.append(W)
            q = q + a
        record("beta", lambda: torch.stack(rates, dim=-1))
        record("fast_weight", after[-1])
        for layer, W in enumerate(after[:-1]):
            record(f"inner_{layer + 1}_fast_weight", W)
        return q.flatten(-2), tuple(after)
