"""Kimi Delta Attention: a gated delta net whose key channels decay each at its own rate.

Kimi Team, "Kimi Linear: An Expressive, Efficient Attention Architecture" (2025), section 3, and the
layer of their released code. Per head, x after LayerNorm:

    q, k, v = SiLU(conv(slow net(x)));   φ(a) = a / |a|
    β = σ(w_β · x);   log α = −exp(A) softplus(W_α² W_α¹ x + d)                α [K], A a number
    W ← W diag(α);   W ← W + β (v − W φ(k)) ⊗ φ(k)
    y = RMSNorm(W φ(q)) ⊙ σ(W_g² W_g¹ x + b_g)

The paper writes the matrix the other way around, S = Wᵀ: S ← (1 − β k kᵀ) diag(α) S + β k vᵀ. Both
pairs of projections have V numbers between them. ``delta_family`` with ``decay: channel`` differs
in these alone, and in its output gate, which is SiLU of one projection.

State: per layer W [B, H, V, K] and, with convolution, the inputs of the last steps, the latest
first: [B, convolution − 1, H (2 K + V)].
"""

from dataclasses import dataclass

from fwp_rl.cores.base import CORES, Core
from fwp_rl.cores.delta_family import DeltaMemory, DeltaMemoryConfig
from fwp_rl.cores.fast_weight_block import FastWeightCore

__all__ = ["KimiDeltaConfig"]


@CORES.register("kimi_delta")
@dataclass(frozen=True, kw_only=True)
class KimiDeltaConfig(DeltaMemoryConfig):
    """Fast weights whose channels decay each by itself, written by the delta rule."""

    def build(self, input_size: int) -> Core:
        return FastWeightCore(
            self,
            input_size,
            lambda layer: DeltaMemory(self, decay="channel", bottleneck=self.value_size),
        )
