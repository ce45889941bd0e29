"""DeltaProduct: a gated delta net that writes several times in each step.

Siems et al., "DeltaProduct: Improving State-Tracking in Linear RNNs via Householder Products"
(2025). As ``gated_delta_net``, with n keys, values and rates in each step, each through its own
share of the slow net; per head:

    W ← α W                                                  once, before the first write
    W ← W + β_i (v_i − W φ(k_i)) ⊗ φ(k_i)                     for i = 1 … n
    y = RMSNorm(W φ(q)) ⊙ SiLU(W_g x)                        after the last write

One step multiplies W by a product of n generalised Householder matrices 1 − β_i φ(k_i) ⊗ φ(k_i).
With β = 2 σ(·), up to 2, their eigenvalues reach from 1 down to −1: they can reflect, and two of
them rotate. State as that of ``gated_delta_net``; the convolution sees H (K + n (K + V)) channels.
"""

from dataclasses import dataclass
from typing import Annotated

from fwp_rl.config import Range
from fwp_rl.cores.base import CORES, Core
from fwp_rl.cores.delta_family import DeltaMemory
from fwp_rl.cores.fast_weight_block import FastWeightCore
from fwp_rl.cores.gated_delta_net import GatedDeltaNetConfig

__all__ = ["DeltaProductConfig"]


@CORES.register("delta_product")
@dataclass(frozen=True, kw_only=True)
class DeltaProductConfig(GatedDeltaNetConfig):
    """Fast weights written several times in each step."""

    updates: Annotated[int, Range(1, 1000)] = 2
    """Writes in each step."""
    allow_negative_eigenvalues: bool = True
    """Write with rates up to 2, as the authors do, rather than up to 1."""
    decay: bool = True
    """Let the memory decay in each step."""

    def build(self, input_size: int) -> Core:
        return FastWeightCore(
            self,
            input_size,
            lambda layer: DeltaMemory(
                self, updates=self.updates, decay="scalar" if self.decay else None
            ),
        )
