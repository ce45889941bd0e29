"""Recurrent Delta Net: a delta net whose slow net sees what the memory last said.

Irie et al., "Going Beyond Linear Transformers with Recurrent Fast Weight Programmers" (2021). Per
head, x after LayerNorm, y₋₁ the raw read of the step before:

    s = tanh(y₋₁)
    q, k = softmax(W_q x + R_q s), softmax(W_k x + R_k s)
    v = W_v x + R_v s;   β = σ(w_b · x + r_b · s)
    W ← W + β (v − W k) ⊗ k;   y = W q

The paper asks that keys and queries be positive and sum to one; the released code takes softmax,
and so does this. R_q, R_k, R_v and r_b are slow weights, drawn with standard deviation 1/√V.
State: per layer W [B, H, V, V] and y₋₁ [B, H, V].
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fwp_rl.cores.base import CORES, Core, record
from fwp_rl.cores.fast_weight_block import FastWeightCore, HeadsConfig, Memory
from fwp_rl.kernels.recurrent_delta import recurrent_delta
from fwp_rl.types import State

__all__ = ["RecurrentDeltaNetConfig"]


@CORES.register("recurrent_delta_net")
@dataclass(frozen=True, kw_only=True)
class RecurrentDeltaNetConfig(HeadsConfig):
    """A delta net whose queries, keys, values and rates depend on its last output."""

    def build(self, input_size: int) -> Core:
        return FastWeightCore(self, input_size, lambda layer: _RecurrentDeltaMemory(self))


class _RecurrentDeltaMemory(Memory):
    cuts_gradients = True

    def __init__(self, config: RecurrentDeltaNetConfig) -> None:
        super().__init__()
        H, V = config.heads, config.value_size
        self.heads, self.value_size = H, V
        self.projection = nn.Linear(config.hidden_size, H * (3 * V + 1), bias=False)
        self.R_q, self.R_k, self.R_v = (
            nn.Parameter(torch.randn(H, V, V) * V**-0.5) for _ in range(3)
        )
        self.r_b = nn.Parameter(torch.randn(H, V) * V**-0.5)
        self.state_shapes = ((H, V, V), (H, V))

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        W, y_prev = state
        V = self.value_size
        emitted = self.projection(x).unflatten(-1, (self.heads, -1))
        xq, xk, xv, xb = emitted.split([V, V, V, 1], dim=-1)
        xb = xb.squeeze(-1)
        recurrent = self.R_q, self.R_k, self.R_v, self.r_b
        y, after = recurrent_delta(
            xq, xk, xv, xb, *recurrent, (W, y_prev), reset=reset, gradient_horizon=self.horizon
        )
        record("beta", lambda: self._beta(xb, y, y_prev, reset))
        record("fast_weight", after[0])
        return y.flatten(-2), after

    def _beta(self, xb: Tensor, y: Tensor, y_prev: Tensor, reset: Tensor) -> Tensor:
        """β [T, B, H], which the op keeps to itself."""
        before = torch.cat([y_prev[None], y[:-1]]).masked_fill(reset[..., None, None], 0)
        return (xb + (before.tanh() * self.r_b).sum(-1)).sigmoid()
