"""Gated Linear Attention: the sum rule on a memory whose key channels decay each at its own rate.

Yang et al., "Gated Linear Attention Transformers with Hardware-Efficient Training" (2023), section
4, and the layer of their released code. Per head, x after LayerNorm, φ(a) = a / |a|:

    q, k, v = slow net(x);   W ← W diag(α) + β v ⊗ φ(k);   y = RMSNorm(W φ(q)) ⊙ SiLU(W_g x)

    decay      α                                                                  β
    channel    σ(W_α² W_α¹ x + d)^(1/16), one for each key channel                1
    scalar     exp(−exp(A) Δ) with Δ = softplus(w · x + d), a number              Δ
    fixed      1 − 2^(−5−h) in head h = 0, 1, …                                   1

``scalar`` is the recurrence of Mamba-2 (Dao and Gu, "Transformers are SSMs", 2024): with
``shared_keys``, one q and k for all heads, they are its C and B, and v is its x. ``fixed`` is that
of RetNet (Sun et al., "Retentive Network", 2023). Both without what those put around it: Mamba-2's
convolution and skip, RetNet's rotations of q and k.

W_α¹ gives 16 numbers, as in the released code. A and d of ``scalar`` start as in
``gated_delta_net``. State: per layer W [B, H, V, K].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwp_rl.cores.base import CORES, Core, record
from fwp_rl.cores.decay import Decay, narrow, record_decay
from fwp_rl.cores.fast_weight_block import FastWeightConfig, FastWeightCore, Memory
from fwp_rl.cores.feature_maps import FeatureMapName
from fwp_rl.kernels.fast_weight import fast_weight
from fwp_rl.types import State

__all__ = ["GLAConfig"]

_BOTTLENECK: Final = 16
_TEMPERATURE: Final = 16


@CORES.register("gla")
@dataclass(frozen=True, kw_only=True)
class GLAConfig(FastWeightConfig):
    """Fast weights written by the sum rule, each key channel with a decay of its own."""

    feature_map: FeatureMapName = "identity"
    """Map of keys and queries, normalisation included; identity divides them by their length."""
    decay: Literal["channel", "scalar", "fixed"] = "channel"
    """What the memory is multiplied by in each step: a number for each key channel, one for each
    head, which also sets how much is written, as in Mamba-2, or a constant of each head, as in
    RetNet."""
    shared_keys: bool = False
    """One query and one key for all heads, as in Mamba-2."""
    output_gate: bool = True
    """Multiply what is read by a gate of the input."""

    def build(self, input_size: int) -> Core:
        return FastWeightCore(self, input_size, lambda layer: _GatedSumMemory(self))


class _GatedSumMemory(Memory):
    cuts_gradients = True

    def __init__(self, config: GLAConfig) -> None:
        super().__init__()
        D, H, V = config.hidden_size, config.heads, config.value_size
        self.heads, self.key_heads = H, 1 if config.shared_keys else H
        self.query_key = nn.Linear(D, self.key_heads * 2 * config.key_size, bias=False)
        self.value = nn.Linear(D, D, bias=False)
        self.feature_map = config.build_feature_map()
        K = self.feature_map.output_size
        self.decay = _DECAYS[config.decay](D, H, K)
        self.norm = nn.RMSNorm(V, eps=1e-5)
        self.gate = nn.Linear(D, D, bias=False) if config.output_gate else None
        self.state_shapes = ((H, V, K),)

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        q, k = self.query_key(x).unflatten(-1, (self.key_heads, 2, -1)).unbind(-2)
        q, k = (self.feature_map(a).expand(-1, -1, self.heads, -1) for a in (q, k))
        v = self.value(x).unflatten(-1, (self.heads, -1))
        log_decay, beta = self.decay(x)
        y, W = fast_weight(
            q,
            k,
            v,
            beta,
            state[0],
            log_decay=log_decay,
            reset=reset,
            gradient_horizon=self.horizon,
            rule="sum",
        )
        if beta is not None:
            record("beta", beta)
        record_decay(log_decay)
        record("fast_weight", W)
        y = self.norm(y).flatten(-2)
        return (y if self.gate is None else y * F.silu(self.gate(x))), (W,)


Rates: TypeAlias = tuple[Tensor, Tensor | None]
"""log α [T, B, H] or [T, B, H, K], and β [T, B, H], None: 1."""


class _ChannelDecay(nn.Module):
    def __init__(self, size: int, heads: int, channels: int) -> None:
        super().__init__()
        self.heads = heads
        self.projection = narrow(size, _BOTTLENECK, heads * channels, bias=True)

    def forward(self, x: Tensor) -> Rates:
        gate = self.projection(x).unflatten(-1, (self.heads, -1))
        return F.logsigmoid(gate) / _TEMPERATURE, None


class _ScalarDecay(nn.Module):
    def __init__(self, size: int, heads: int, channels: int) -> None:
        super().__init__()
        self.decay = Decay(size, heads)

    def forward(self, x: Tensor) -> Rates:
        step = self.decay.step(x)
        return self.decay.log_decay(step), step


class _FixedDecay(nn.Module):
    lost: Tensor

    def __init__(self, size: int, heads: int, channels: int) -> None:
        super().__init__()
        lost = torch.tensor([2.0 ** (-5 - head) for head in range(heads)])  # exact in any dtype
        self.register_buffer("lost", lost, persistent=False)

    def forward(self, x: Tensor) -> Rates:
        return (-self.lost.to(x.dtype)).log1p().expand(*x.shape[:-1], -1), None


_DECAYS: Final[dict[str, Callable[[int, int, int], nn.Module]]] = {
    "channel": _ChannelDecay,
    "scalar": _ScalarDecay,
    "fixed": _FixedDecay,
}
