"""Delta LSTM: an LSTM whose three recurrent matrices are fast weights, on top of delta nets.

Irie et al., "Going Beyond Linear Transformers with Recurrent Fast Weight Programmers" (2021), from
their language models. Per head and gate g = i, u, o, x after LayerNorm, six fast matrices in all:

    q, k, v, k', v', b, b' = slow net(x);   β, β' = σ(b), σ(b')
    W_g ← W_g + β (v − W_g φ(k)) ⊗ φ(k);   z_g = W_g φ(q)
    R_g ← R_g + β' (v' − R_g softmax(k')) ⊗ softmax(k')
    a_g = z_g + R_g softmax(h)                           read after the write
    i, o = σ(a_i), σ(a_o);   c ← i u + (1 − i) c

    v4:  u = a_u,    h ← c o           the Delta LSTM of the main table
    v3:  u = σ(a_u), h ← c o + z_u
    v2:  u = σ(a_u), h ← c o
    v1:  u = σ(a_u), h ← softmax(c o), and R_g reads h itself in place of softmax(h)

y = h. v1 to v3 run step by step in torch. State: per layer W [B, 3 H, V, K], gate after gate,
R [B, 3, H, V, V], c and h [B, H, V].
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fwp_rl.cores.base import CORES, Core, record
from fwp_rl.cores.fast_weight_block import (
    FastWeightConfig,
    FastWeightCore,
    Memory,
    QueryKeyValue,
)
from fwp_rl.kernels.fast_lstm import fast_lstm
from fwp_rl.kernels.fast_weight import fast_weight
from fwp_rl.kernels.horizon import cuts, in_effect
from fwp_rl.types import State

__all__ = ["DeltaLSTMConfig"]


@CORES.register("delta_lstm")
@dataclass(frozen=True, kw_only=True)
class DeltaLSTMConfig(FastWeightConfig):
    """An LSTM whose weights are fast: three gates, each a delta net with a recurrent matrix."""

    version: Literal["v4", "v3", "v2", "v1"] = "v4"
    """v4: linear cell input. v3, v2, v1: the paper's ablations, in torch alone, slower."""

    def build(self, input_size: int) -> Core:
        return FastWeightCore(self, input_size, lambda layer: _DeltaLSTMMemory(self))


class _DeltaLSTMMemory(Memory):
    cuts_gradients = True

    def __init__(self, config: DeltaLSTMConfig) -> None:
        super().__init__()
        H, V = config.heads, config.value_size
        self.version = config.version
        self.slow_net = QueryKeyValue(config, extra=2 * V + 2, heads=3 * H)
        self.recurrent_sizes = [V, V, 1, 1]
        self.state_shapes = ((3 * H, V, self.slow_net.key_size), (3, H, V, V), (H, V), (H, V))

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        W, R, c, h = state
        q, k, v, extra = self.slow_net(x)
        rk, rv, *rates = extra.split(self.recurrent_sizes, dim=-1)
        beta, rbeta = (rate.squeeze(-1).sigmoid() for rate in rates)
        z, W = fast_weight(
            q, k, v, beta, W, reset=reset, gradient_horizon=self.horizon, rule="delta"
        )
        before = R, c, h
        z, rk, rv, rate = (part.unflatten(2, (3, -1)) for part in (z, rk.softmax(-1), rv, rbeta))
        if self.version == "v4":
            y, after = fast_lstm(
                z, rk, rv, rate, before, reset=reset, gradient_horizon=self.horizon
            )
        else:
            horizon = in_effect(self.horizon)
            y, after = _earlier_version(self.version, z, rk, rv, rate, before, reset, horizon)
        record("beta", beta)
        record("fast_weight", W)
        record("recurrent_beta", rbeta)
        record("recurrent_fast_weight", after[0].flatten(1, 2))
        return y.flatten(-2), (W, *after)


def _earlier_version(
    version: str,
    z: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    state: tuple[Tensor, Tensor, Tensor],
    reset: Tensor,
    horizon: int,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """v1 to v3, with the arguments of ``fast_lstm``."""
    R, c, h = state
    outputs = []
    for t in range(len(z)):
        if cuts(t, horizon):
            R, c, h = R.detach(), c.detach(), h.detach()
        first = reset[t, :, None, None]
        R = R.masked_fill(first[..., None, None], 0)
        c, h = c.masked_fill(first, 0), h.masked_fill(first, 0)
        write = beta[t].unsqueeze(-1) * (v[t] - torch.einsum("bghij,bghj->bghi", R, k[t]))
        R = R + torch.einsum("bghi,bghj->bghij", write, k[t])
        query = h if version == "v1" else h.softmax(-1)
        i, u, o = (z[t] + torch.einsum("bghij,bhj->bghi", R, query)).sigmoid().unbind(1)
        c = i * u + (1 - i) * c
        h = c * o
        if version == "v3":
            h = h + z[t, :, 1]
        elif version == "v1":
            h = h.softmax(-1)
        outputs.append(h)
    return torch.stack(outputs), (R, c, h)
