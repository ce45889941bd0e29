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
other cores. Other feature maps can take the place of φ.

State: per layer W [B, H, V, K] and, with convolution, the inputs of the last steps, the latest
first: [B, convolution − 1, H (2 K + V)].
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwp_rl.config import Range
from fwp_rl.cores.base import CORES, Core, record
from fwp_rl.cores.fast_weight_block import FastWeightConfig, FastWeightCore, Memory
from fwp_rl.cores.feature_maps import FeatureMapName
from fwp_rl.kernels.fast_weight import fast_weight
from fwp_rl.kernels.horizon import in_effect
from fwp_rl.types import State

__all__ = ["GatedDeltaMemory", "GatedDeltaNetConfig"]


@CORES.register("gated_delta_net")
@dataclass(frozen=True, kw_only=True)
class GatedDeltaNetConfig(FastWeightConfig):
    """Fast weights that decay, written by the delta rule."""

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

    def build(self, input_size: int) -> Core:
        return FastWeightCore(self, input_size, lambda layer: GatedDeltaMemory(self))


class GatedDeltaMemory(Memory):
    """``updates`` writes in each step; whether the memory ``decays``."""

    cuts_gradients = True

    def __init__(
        self,
        config: GatedDeltaNetConfig,
        *,
        updates: int = 1,
        decays: bool = True,
    ) -> None:
        super().__init__()
        D, H, K, V = config.hidden_size, config.heads, config.key_size, config.value_size
        self.heads, self.updates = H, updates
        self.top_rate = 2.0 if config.allow_negative_eigenvalues else 1.0
        self.sizes = [K, updates * K, updates * V]
        channels = H * sum(self.sizes)
        self.slow_net = nn.Linear(D, channels, bias=False)
        self.convolution = (
            _ShortConvolution(channels, config.convolution) if config.convolution > 1 else None
        )
        self.feature_map = config.build_feature_map()
        self.query_scale = self.feature_map.output_size**-0.5 if config.scale_queries else None
        self.rate = nn.Linear(D, H * updates, bias=False)
        self.decay = _Decay(D, H) if decays else None
        self.norm = nn.RMSNorm(V, eps=1e-5)
        self.gate = nn.Linear(D, D, bias=False) if config.output_gate else None
        self.state_shapes = ((H, V, self.feature_map.output_size),)
        if self.convolution is not None:
            self.state_shapes += (self.convolution.state_shape,)

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        emitted = self.slow_net(x)
        W, *recent = state
        if self.convolution is not None:
            horizon = in_effect(self.horizon)
            emitted, *recent = self.convolution(emitted, recent[0], reset, horizon)
        heads = F.silu(emitted).unflatten(-1, (self.heads, -1))
        q, k, v = heads.split(self.sizes, dim=-1)
        n = self.updates
        q, k = self.feature_map(q), self.feature_map(k.unflatten(-1, (n, -1)))
        if self.query_scale is not None:
            q = q * self.query_scale
        beta = self.top_rate * self.rate(x).sigmoid().unflatten(-1, (self.heads, n))
        log_decay = None if self.decay is None else self.decay(x)
        v = v.unflatten(-1, (n, -1))
        y, W = _write_and_read(q, k, v, beta, W, log_decay, reset, self.horizon)
        record("beta", beta.squeeze(-1))
        record("fast_weight", W)
        if log_decay is not None:
            record("decay", log_decay.exp())
        y = self.norm(y).flatten(-2)
        return (y if self.gate is None else y * F.silu(self.gate(x))), (W, *recent)


def _write_and_read(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    W: Tensor,
    log_decay: Tensor | None,
    reset: Tensor,
    gradient_horizon: int | None,
) -> tuple[Tensor, Tensor]:
    """n writes in each step, as n steps of the op: reset and decay come before the first of them,
    and so do cuts of the gradient; the read comes after the last.

    q [T, B, H, K]  k [T, B, H, n, K]  v [T, B, H, n, V]  beta [T, B, H, n]
    """
    steps, n = q.shape[0], beta.shape[-1]

    def first(x: Tensor) -> Tensor:
        """x at the first write of each step, zeros at the others: [T, ...] to [T n, ...]."""
        return torch.stack([x, *[torch.zeros_like(x)] * (n - 1)], dim=1).flatten(0, 1)

    y, W = fast_weight(
        q.repeat_interleave(n, dim=0),
        k.movedim(3, 1).flatten(0, 1),
        v.movedim(3, 1).flatten(0, 1),
        beta.movedim(3, 1).flatten(0, 1),
        W,
        log_decay=None if log_decay is None else first(log_decay),
        reset=first(reset),
        gradient_horizon=None if gradient_horizon is None else gradient_horizon * n,
        rule="delta",
    )
    return y.unflatten(0, (steps, n))[:, -1], W


class _Decay(nn.Module):
    """log α [T, B, H] from x [T, B, D], below 0."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.projection = nn.Linear(size, heads, bias=False)
        # 1 − u of u in [0, 1) is never 0, whose log would be −∞
        self.log_speed = nn.Parameter((16 * (1 - torch.rand(heads))).log())
        step = torch.empty(heads).uniform_(math.log(0.001), math.log(0.1)).exp()
        self.bias = nn.Parameter(step.expm1().log())  # the inverse of softplus

    def forward(self, x: Tensor) -> Tensor:
        speed = F.softplus(self.projection(x) + self.bias)
        log_decay: Tensor = -self.log_speed.exp() * speed
        return log_decay


class _ShortConvolution(nn.Module):
    """y_t = Σ_j w_j ⊙ x_{t−j} over the last ``size`` steps of the episode.

    forward(x [T, B, C], recent [B, size − 1, C], reset [T, B], horizon) -> y [T, B, C], recent
    recent: the inputs before, the latest first; zeros where the episode had none
    horizon: 0, or where gradients to earlier inputs end, see ``fwp_rl.kernels.horizon``
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.state_shape = (size - 1, channels)
        self.weight = nn.Parameter(torch.empty(size, channels))
        bound = size**-0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(
        self, x: Tensor, recent: Tensor, reset: Tensor, horizon: int
    ) -> tuple[Tensor, Tensor]:
        steps, before = x.shape[0], recent.shape[1]
        known = torch.cat([recent.movedim(1, 0).flip(0), x])
        resets = F.pad(reset, (0, 0, before, 0))
        lagged = [x]
        forgotten = torch.zeros_like(reset)
        for lag in range(1, before + 1):
            # x_{t−lag} is of another episode if one began at t − lag + 1 or later
            start = before - lag
            forgotten = forgotten | resets[start + 1 : start + 1 + steps]
            past = known[start : start + steps]
            if 0 < horizon < steps:
                past = _cut(past, lag, horizon)
            lagged.append(past.masked_fill(forgotten[..., None], 0))
        y = sum(w * x for w, x in zip(self.weight, lagged, strict=True))
        return y, torch.stack([x[-1] for x in lagged[:-1]], dim=1)


def _cut(past: Tensor, lag: int, horizon: int) -> Tensor:
    """x_{t−lag} [T, B, C], a constant where a horizon ends the gradient before a step between."""
    t = torch.arange(len(past), device=past.device)
    ended = (t >= horizon) & (t % horizon < lag)
    return torch.where(ended[:, None, None], past.detach(), past)
