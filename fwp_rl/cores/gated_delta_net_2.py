"""Gated DeltaNet-2: what is erased and what is written have gates of their own.

"Gated DeltaNet-2: Decoupling Erase and Write in Linear Attention" (2026, arXiv 2605.22791), and the
layer of its released code. Per head, x after LayerNorm:

    q, k, v = SiLU(conv(slow net(x)));   φ(a) = a / |a|
    b = σ(W_b x);   w = σ(W_w x);   log α = −exp(A) softplus(W_α² W_α¹ x + d)   b, α [K], w [V]
    W ← W diag(α);   W ← W + (w ⊙ v − W (b ⊙ φ(k))) ⊗ φ(k)
    y = RMSNorm(W φ(q)) ⊙ σ(W_g² W_g¹ x + b_g)

With all numbers of b and w equal to β it is ``kimi_delta``. With ``allow_negative_eigenvalues``
b = 2 σ(W_b x), as in the released code; w stays below 1.

State: per layer W [B, H, V, K] and, with convolution, the inputs of the last steps, the latest
first: [B, convolution − 1, H (2 K + V)].
"""

from dataclasses import dataclass

from fwp_rl.cores.base import CORES, Core
from fwp_rl.cores.delta_family import DeltaMemory, DeltaMemoryConfig
from fwp_rl.cores.fast_weight_block import FastWeightCore

__all__ = ["GatedDeltaNet2Config"]


@CORES.register("gated_delta_net_2")
@dataclass(frozen=True, kw_only=True)
class GatedDeltaNet2Config(DeltaMemoryConfig):
    """Fast weights with a gate for each channel that is erased and each number written."""

    def build(self, input_size: int) -> Core:
        return FastWeightCore(
            self,
            input_size,
            lambda layer: DeltaMemory(
                self,
                decay="channel",
                erase="gated",
                write="gated",
                bottleneck=self.value_size,
            ),
        )
