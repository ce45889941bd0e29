"""Gated Delta Net: the delta rule on a memory that decays.

Yang et al., "Gated Delta Networks: Improving Mamba2 with Delta Rule" (2024), eq. 10, and the
layer of their released code. Per head, x after LayerNorm:

    q, k, v = SiLU(conv(slow net(x)));   φ(a) = a / |a|
    β = σ(w_β · x);   log α = −exp(A) softplus(w_α · x + d)
    W ← α W + β (v − α W φ(k)) ⊗ φ(k);   y = RMSNorm(W φ(q)) ⊙ SiLU(W_g x)

With ``allow_negative_eigenvalues`` β = 2 σ(w_β · x), after Grazzi et al., "Unlocking State-Tracking
in Linear RNNs Through Negative Eigenvalues" (2024): 1 − β φ(k) ⊗ φ(k) then has an eigenvalue
between −1 and 1 in place of 0 and 1.

conv is a causal convolution over the last few steps of the episode, each channel for itself.
Decay, convolution and rates start as in the released code: exp(A) ~ U(0, 16), softplus(d)
log-uniform in [0.001, 0.1]. Its values are twice as wide as its keys; here both are as in the
other cores. Other feature maps can take the place of φ. The memory is that of ``delta_family``.

State: per layer W [B, H, V, K] and, with convolution, the inputs of the last steps, the latest
first: [B, convolution − 1, H (2 K + V)].
"""

from dataclasses import dataclass

from fwp_rl.cores.base import CORES, Core
from fwp_rl.cores.delta_family import DeltaMemory, DeltaMemoryConfig
from fwp_rl.cores.fast_weight_block import FastWeightCore

__all__ = ["GatedDeltaNetConfig"]


@CORES.register("gated_delta_net")
@dataclass(frozen=True, kw_only=True)
class GatedDeltaNetConfig(DeltaMemoryConfig):
    """Fast weights that decay, written by the delta rule."""

    def build(self, input_size: int) -> Core:
        return FastWeightCore(self, input_size, lambda layer: DeltaMemory(self))
