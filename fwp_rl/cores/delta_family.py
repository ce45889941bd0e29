"""The family of the gated delta rule: one memory, and as options what its members differ in.

Per head, x after LayerNorm, with n keys, values and rates in each step:

    q, k_i, v_i = SiLU(conv(slow net(x)));   β_i = σ(w_i · x);   φ(a) = a / |a|
    e_i = φ(k_i), or b_i ⊙ φ(k_i) with b_i = σ(B_i x)                        erase: tied, gated
    W ← W, or α W, or W diag(α)                                  decay: none, scalar, channel
    W ← W + β_i (v_i − W e_i) ⊗ φ(k_i)                                         for i = 1 … n
    y = RMSNorm(W φ(q)) ⊙ SiLU(W_g x)                                     after the last write

    log α = −exp(A) softplus(w_α · x + d)     A for each head, d for each number of α

With ``allow_negative_eigenvalues`` β = 2 σ(·), after Grazzi et al., "Unlocking State-Tracking in
Linear RNNs Through Negative Eigenvalues" (2024).

``delta_net``, ``gated_delta_net`` and ``delta_product`` are settings of it (docs/cores.md), the
latter two by this very memory. ``kimi_delta`` and ``gated_delta_net_2`` are this memory with
narrow projections, as their papers have them. A gated erase with a rate is no paper's: it is what
Gated DeltaNet-2 adds to Kimi Delta Attention, without its write gate.

conv is a causal convolution over the last few steps of the episode, each channel for itself. Decay
and convolution start as in the released code of Gated DeltaNet: exp(A) ~ U(0, 16), softplus(d)
log-uniform in [0.001, 0.1].

State: per layer W [B, H, V, K] and, with convolution, the inputs of the last steps, the latest
first: [B, convolution − 1, H (K + n (K + V))].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwp_rl.config import Range
from fwp_rl.cores.base import CORES, Core, record
from fwp_rl.cores.decay import Decay, narrow, record_decay
from fwp_rl.cores.fast_weight_block import FastWeightConfig, FastWeightCore, Memory
from fwp_rl.cores.feature_maps import FeatureMapName
from fwp_rl.cores.short_convolution import ShortConvolution
from fwp_rl.kernels.fast_weight import fast_weight
from fwp_rl.kernels.horizon import in_effect
from fwp_rl.types import State

__all__ = ["DeltaFamilyConfig", "DeltaMemory", "DeltaMemoryConfig"]

DecayName: TypeAlias = Literal["scalar", "channel"]
EraseName: TypeAlias = Literal["tied", "gated"]


@dataclass(frozen=True, kw_only=True)
class DeltaMemoryConfig(FastWeightConfig):
    """What every member of the family can be told."""

    feature_map: FeatureMapName = "identity"
    """Map of keys and queries, normalisation included; identity divides them by their length."""
    convolution: Annotated[int, Range(1, 1000)] = 4
    """Steps that the convolution before queries, keys and values sees; 1: none."""
    output_gate: bool = True
    """Multiply what is read by a gate of the input."""
    scale_queries: bool = False
    """Divide queries by the root of their size, as the released code does: what is read then counts
    for less beside RMSNorm's epsilon of 1e-5."""
    allow_negative_eigenvalues: bool = False
    """Write with rates up to 2 rather than up to 1: what is stored under a key may change its sign,
    as parity and other states need it."""


@CORES.register("delta_family")
@dataclass(frozen=True, kw_only=True)
class DeltaFamilyConfig(DeltaMemoryConfig):
    """The delta rule by its parts: decay, erase, writes in each step, largest rate."""

    updates: Annotated[int, Range(1, 1000)] = 1
    """Writes in each step."""
    decay: DecayName | None = "scalar"
    """What the memory is multiplied by before a step's writes: a number for each head, or one for
    each channel of the keys; none: nothing."""
    erase: EraseName = "tied"
    """What is subtracted: what is stored under the key, or under the key times a gate of the input
    for each of its channels."""
    silu: bool = True
    """Apply SiLU to what queries, keys and values are made of."""
    read_norm: bool = True
    """Divide what each head reads by its root mean square."""

    def build(self, input_size: int) -> Core:
        return FastWeightCore(
            self,
            input_size,
            lambda layer: DeltaMemory(
                self,
                updates=self.updates,
                decay=self.decay,
                erase=self.erase,
                silu=self.silu,
                read_norm=self.read_norm,
            ),
        )


class DeltaMemory(Memory):
    """The family's memory.

    write       by a rate β of each write, or by a gate of each value's numbers in its place: v ⊙ w
                with w = σ(W_w x). Negative eigenvalues are then those of a gated erase: b up to 2
    bottleneck  decay and output gate go through so many numbers, the gate is a sigmoid's, as in
                Kimi Delta Attention; none: neither
    """

    cuts_gradients = True

    def __init__(
        self,
        config: DeltaMemoryConfig,
        *,
        updates: int = 1,
        decay: DecayName | None = "scalar",
        erase: EraseName = "tied",
        write: Literal["rate", "gated"] = "rate",
        silu: bool = True,
        read_norm: bool = True,
        bottleneck: int | None = None,
    ) -> None:
        super().__init__()
        D, H, K, V = config.hidden_size, config.heads, config.key_size, config.value_size
        self.heads, self.updates, self.silu = H, updates, silu
        self.top_rate = 2.0 if config.allow_negative_eigenvalues else 1.0
        self.sizes = [K, updates * K, updates * V]
        channels = H * sum(self.sizes)
        self.slow_net = nn.Linear(D, channels, bias=False)
        self.convolution = (
            ShortConvolution(channels, config.convolution) if config.convolution > 1 else None
        )
        self.feature_map = config.build_feature_map()
        K = self.feature_map.output_size  # from here on: of keys that are mapped
        self.query_scale = K**-0.5 if config.scale_queries else None
        by_rate = write == "rate"
        self.rate = nn.Linear(D, H * updates, bias=False) if by_rate else None
        channels_of_decay = K if decay == "channel" else None
        self.decay = None if decay is None else Decay(D, H, channels_of_decay, bottleneck)
        self.norm = nn.RMSNorm(V, eps=1e-5) if read_norm else None
        self.gate_function: Callable[[Tensor], Tensor] = (
            F.silu if bottleneck is None else torch.sigmoid
        )
        self.gate = _gate(D, bottleneck) if config.output_gate else None
        self.erase_gate = nn.Linear(D, H * updates * K, bias=False) if erase == "gated" else None
        self.write_gate = None if by_rate else nn.Linear(D, H * updates * V, bias=False)
        self.state_shapes = ((H, V, K),)
        if self.convolution is not None:
            self.state_shapes += (self.convolution.state_shape,)

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        emitted = self.slow_net(x)
        W, *recent = state
        if self.convolution is not None:
            horizon = in_effect(self.horizon)
            emitted, *recent = self.convolution(emitted, recent[0], reset, horizon)
        heads = (F.silu(emitted) if self.silu else emitted).unflatten(-1, (self.heads, -1))
        q, k, v = heads.split(self.sizes, dim=-1)
        n = self.updates
        q, k = self.feature_map(q), self.feature_map(k.unflatten(-1, (n, -1)))
        if self.query_scale is not None:
            q = q * self.query_scale
        v = v.unflatten(-1, (n, -1))
        beta, erase, v = self._rates(x, k, v)
        log_decay = None if self.decay is None else self.decay(x)
        y, W = _write_and_read(q, k, v, beta, W, erase, log_decay, reset, self.horizon)
        if beta is not None:
            record("beta", beta.squeeze(-1))
        record("fast_weight", W)
        if log_decay is not None:
            record_decay(log_decay)
        y = (y if self.norm is None else self.norm(y)).flatten(-2)
        return (y if self.gate is None else y * self.gate_function(self.gate(x))), (W, *recent)

    def _rates(
        self, x: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """β [T, B, H, n], what is erased [T, B, H, n, K], None: the keys, and what is written."""
        parts = self.heads, self.updates
        beta, erase = None, None
        if self.rate is not None:
            beta = self.top_rate * self.rate(x).sigmoid().unflatten(-1, parts)
        if self.erase_gate is not None:
            gate = self.erase_gate(x).sigmoid().unflatten(-1, (*parts, -1))
            erase = k * (gate if self.rate is not None else self.top_rate * gate)
        if self.write_gate is not None:
            v = v * self.write_gate(x).sigmoid().unflatten(-1, (*parts, -1))
        return beta, erase, v


def _write_and_read(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    W: Tensor,
    erase: Tensor | None,
    log_decay: Tensor | None,
    reset: Tensor,
    gradient_horizon: int | None,
) -> tuple[Tensor, Tensor]:
    """n writes in each step, as n steps of the op: reset and decay come before the first of them,
    and so do cuts of the gradient; the read comes after the last.

    q [T, B, H, K]  k, erase [T, B, H, n, K]  v [T, B, H, n, V]  beta [T, B, H, n]
    """
    steps, n = q.shape[0], k.shape[3]

    def first(x: Tensor) -> Tensor:
        """x at the first write of each step, zeros at the others: [T, ...] to [T n, ...]."""
        return torch.stack([x, *[torch.zeros_like(x)] * (n - 1)], dim=1).flatten(0, 1)

    def each(x: Tensor) -> Tensor:
        """[T, B, H, n, ...] to [T n, B, H, ...]."""
        return x.movedim(3, 1).flatten(0, 1)

    y, W = fast_weight(
        q.repeat_interleave(n, dim=0),
        each(k),
        each(v),
        None if beta is None else each(beta),
        W,
        erase=None if erase is None else each(erase),
        log_decay=None if log_decay is None else first(log_decay),
        reset=first(reset),
        gradient_horizon=None if gradient_horizon is None else gradient_horizon * n,
        rule="delta",
    )
    return y.unflatten(0, (steps, n))[:, -1], W


def _gate(size: int, bottleneck: int | None) -> nn.Module:
    return narrow(size, bottleneck, size, bias=bottleneck is not None)
