"""Delta Net: a fast weight memory that corrects what it holds.

Schlag et al., "Linear Transformers Are Secretly Fast Weight Programmers" (2021), eq. 20-25; as an
agent's core in Irie et al., "Going Beyond Linear Transformers with Recurrent Fast Weight
Programmers" (2021). Per head, x after LayerNorm, φ normalised:

    q, k, v, b = slow net(x);   β = σ(b)
    W ← W + β (v − W φ(k)) ⊗ φ(k);   y = W φ(q)

With ``allow_negative_eigenvalues`` β = 2 σ(b), after Grazzi et al., "Unlocking State-Tracking in
Linear RNNs Through Negative Eigenvalues" (2024).

State: per layer W [B, H, V, K].

The attention-normalised variant (eq. 26-28) divides both reads by their attention weights, summed
in z [B, H, K], a second leaf of the state:

    s = z · φ(k);   W ← W + β (v − W φ(k) / s) ⊗ φ(k);   z ← z + φ(k);   y = W φ(q) / (z · φ(q))

with s = 1 where nothing is held. It is the same write with the key φ(k) / s and the rate β s, as in
the authors' language models. They report that it hurts.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fwp_rl.cores.base import CORES, Core, record
from fwp_rl.cores.fast_weight_block import (
    FastWeightCore,
    Memory,
    NormalisedConfig,
    QueryKeyValue,
)
from fwp_rl.kernels.fast_weight import fast_weight
from fwp_rl.kernels.horizon import cuts, in_effect
from fwp_rl.types import State

__all__ = ["DeltaNetConfig"]

_EPSILON: Final = 1e-5


@CORES.register("delta_net")
@dataclass(frozen=True, kw_only=True)
class DeltaNetConfig(NormalisedConfig):
    """Fast weights written by the delta rule: replaces what is stored under a key."""

    allow_negative_eigenvalues: bool = False
    """Write with rates up to 2 rather than up to 1: what is stored under a key may change its sign.
    It takes keys of length 1, such as feature_map identity's; those that sum to 1 are shorter."""

    def build(self, input_size: int) -> Core:
        make = _NormalisedDeltaMemory if self.attention_normaliser else _DeltaMemory
        return FastWeightCore(self, input_size, lambda layer: make(self))


class _DeltaMemory(Memory):
    cuts_gradients = True

    def __init__(self, config: DeltaNetConfig) -> None:
        super().__init__()
        self.slow_net = QueryKeyValue(config, extra=1)
        self.negative = config.allow_negative_eigenvalues
        self.state_shapes = ((config.heads, config.value_size, self.slow_net.key_size),)

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        q, k, v, rate = self.slow_net(x)
        beta = _beta(rate, self.negative)
        y, W = fast_weight(
            q, k, v, beta, state[0], reset=reset, gradient_horizon=self.horizon, rule="delta"
        )
        record("beta", beta)
        record("fast_weight", W)
        return y.flatten(-2), (W,)


class _NormalisedDeltaMemory(Memory):
    cuts_gradients = True

    def __init__(self, config: DeltaNetConfig) -> None:
        super().__init__()
        self.slow_net = QueryKeyValue(config, extra=1)
        self.negative = config.allow_negative_eigenvalues
        H, K = config.heads, self.slow_net.key_size
        self.state_shapes = ((H, config.value_size, K), (H, K))

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        q, k, v, rate = self.slow_net(x)
        beta = _beta(rate, self.negative)
        before, z = _sums(k, state[1], reset, in_effect(self.horizon))
        held = (before * k).sum(-1)
        held = torch.where(held == 0, 1.0, held)
        key = k / (held[..., None] + _EPSILON)
        y, W = fast_weight(
            q,
            key,
            v,
            beta * held,
            state[0],
            reset=reset,
            gradient_horizon=self.horizon,
            rule="delta",
        )
        y = y / (((before + k) * q).sum(-1, keepdim=True) + _EPSILON)
        record("beta", beta)
        record("fast_weight", W)
        return y.flatten(-2), (W, z)


def _beta(rate: Tensor, negative: bool) -> Tensor:
    """[T, B, H] from what the slow net emits [T, B, H, 1]; up to 2 for negative eigenvalues."""
    beta = rate.squeeze(-1).sigmoid()
    return 2 * beta if negative else beta


def _sums(k: Tensor, z: Tensor, reset: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """Sums of an episode's keys: before each step [T, B, H, K], and after the last [B, H, K]."""
    before = []
    for t, (k_t, reset_t) in enumerate(zip(k, reset, strict=True)):
        if cuts(t, horizon):
            z = z.detach()
        z = z.masked_fill(reset_t[:, None, None], 0)
        before.append(z)
        z = z + k_t
    return torch.stack(before), z
