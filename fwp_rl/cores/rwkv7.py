"""RWKV-7: erases what the memory held under one key, then adds under another.

Peng et al., "RWKV-7 'Goose' with Expressive Dynamic State Evolution" (2025), section 4: its time
mixing. Per head, x after LayerNorm and x₋₁ that of the step before, 0 at the start of an episode:

    x_i = x + (x₋₁ − x) ⊙ μ_i                                           for i of r, w, k, v, a, g
    r = W_r x_r;   κ = W_k x_k;   v = W_v x_v;   g = G_2 σ(G_1 x_g)
    w = exp(−exp(−1/2) σ(D_2 tanh(D_1 x_w) + d));   a = σ(A_2 A_1 x_a + a_0)
    κ̂ = φ(κ ⊙ ξ) with φ(a) = a / |a|;   k = κ ⊙ (1 + (a − 1) ⊙ α)
    W ← W (diag(w) − κ̂ ⊗ (a ⊙ κ̂)) + v ⊗ k
    y = (GroupNorm(W r) + (r · (ρ ⊙ k)) v) ⊙ g

The erased part is read before the decay, and the two keys differ: a step is two writes of the op,
first 0 under a ⊙ κ̂, erasing W' (κ̂ / w) of the decayed W', then v under k, erasing nothing. w is
above 0.545, so that the division is harmless.

μ, ξ, α, ρ, d start as in flash-linear-attention for the first layer, but without d's zigzag over
the channels. State: per layer W [B, H, V, V] and x₋₁ [B, 1, hidden_size].
"""

import math
from dataclasses import dataclass
from typing import Annotated, Final

import torch
from torch import Tensor, nn

from fwp_rl.config import Range
from fwp_rl.cores.base import CORES, Core, record
from fwp_rl.cores.decay import narrow, record_decay
from fwp_rl.cores.fast_weight_block import FastWeightCore, HeadsConfig, Memory
from fwp_rl.cores.feature_maps import FeatureMap
from fwp_rl.cores.short_convolution import lagged
from fwp_rl.kernels.fast_weight import fast_weight
from fwp_rl.kernels.horizon import in_effect
from fwp_rl.types import State

__all__ = ["RWKV7Config"]

_SLOWEST: Final = math.exp(-0.5)
_SHIFTS: Final = (0.2, 0.9, 0.7, 0.7, 0.9, 0.2)
"""Powers of a channel's place in what is left of x: r, w, k, v, a, g."""


@CORES.register("rwkv7")
@dataclass(frozen=True, kw_only=True)
class RWKV7Config(HeadsConfig):
    """Fast weights that decay by channel, erased under one key and written under another."""

    bottleneck: Annotated[int, Range(1)] = 32
    """Numbers between the two projections of the decay, of the erase rate and of the gate."""

    def build(self, input_size: int) -> Core:
        return FastWeightCore(self, input_size, lambda layer: _TimeMixing(self))


class _TimeMixing(Memory):
    cuts_gradients = True

    def __init__(self, config: RWKV7Config) -> None:
        super().__init__()
        D, H, V, R = config.hidden_size, config.heads, config.value_size, config.bottleneck
        self.heads = H
        place = torch.arange(D) / D
        self.shift = nn.Parameter(torch.stack([1 - place**power for power in _SHIFTS]))  # μ
        self.receptance, self.key, self.value = (nn.Linear(D, D, bias=False) for _ in range(3))
        self.decay_in, self.decay_out = nn.Linear(D, R, bias=False), nn.Linear(R, D)
        self.rate = narrow(D, R, D, bias=True)
        self.gate_in, self.gate_out = nn.Linear(D, R, bias=False), nn.Linear(R, D, bias=False)
        spread = torch.linspace(0, 1, D)
        with torch.no_grad():
            self.decay_out.bias.copy_(6 * spread - 5.5)
        self.erase_scale = nn.Parameter(0.71 - 0.1 * (spread - 0.5))  # ξ
        self.key_rate = nn.Parameter(torch.full((D,), 1.02))  # α
        self.bonus = nn.Parameter(torch.full((H, V), -0.04))  # ρ
        self.normalise = FeatureMap("identity", V)
        self.norm = nn.GroupNorm(H, D, eps=1e-5 * V)
        self.state_shapes = ((H, V, V), (1, D))

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        W, recent = state
        (_, before), recent = lagged(x, recent, reset, in_effect(self.horizon))
        difference = before - x
        r, w, key, v, a, g = (x + difference * share for share in self.shift)
        decay = self.decay_out(self.decay_in(w).tanh())
        log_decay = self._heads(-_SLOWEST * decay.sigmoid())
        rate = self.rate(a).sigmoid()
        key = self.key(key)
        erased = self.normalise(self._heads(key * self.erase_scale))
        k = self._heads(key * (1 + (rate - 1) * self.key_rate))
        r, v = self._heads(self.receptance(r)), self._heads(self.value(v))
        y, W = _erase_and_add(
            *(r, k, v, erased, self._heads(rate), W, log_decay, reset), horizon=self.horizon
        )
        record_decay(log_decay)
        record("fast_weight", W)
        y = self.norm(y.flatten(0, 1).flatten(-2)).unflatten(0, reset.shape)
        y = y + ((r * self.bonus * k).sum(-1, keepdim=True) * v).flatten(-2)
        return y * self.gate_out(self.gate_in(g).sigmoid()), (W, recent)

    def _heads(self, x: Tensor) -> Tensor:
        """[T, B, H V] to [T, B, H, V]."""
        mixed: Tensor = x.unflatten(-1, (self.heads, -1))
        return mixed


def _erase_and_add(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    erased: Tensor,
    rate: Tensor,
    W: Tensor,
    log_decay: Tensor,
    reset: Tensor,
    *,
    horizon: int | None,
) -> tuple[Tensor, Tensor]:
    """Two steps of the op for each: r, k, erased (κ̂), rate, log_decay [T, B, H, K], v [T, B, H, V];
    decay, reset and cuts of the gradient come before the first, the read after the second."""

    def pair(first: Tensor, second: Tensor) -> Tensor:
        return torch.stack([first, second], dim=1).flatten(0, 1)

    erase = erased * (-log_decay).exp()
    y, W = fast_weight(
        pair(r, r),
        pair(rate * erased, k),
        pair(torch.zeros_like(v), v),
        None,
        W,
        erase=pair(erase, torch.zeros_like(erase)),
        log_decay=pair(log_decay, torch.zeros_like(log_decay)),
        reset=pair(reset, torch.zeros_like(reset)),
        gradient_horizon=None if horizon is None else 2 * horizon,
        rule="delta",
    )
    return y.unflatten(0, (-1, 2))[:, 1], W
