"""mLSTM: a matrix memory with exponential gates.

Beck et al., "xLSTM: Extended Long Short-Term Memory" (2024), eq. 19-27, stabilised by m as in
eq. 15-17. Per head, x after LayerNorm, with i and f the logs of the gates:

    q, k, v = slow net(x);   i = w_i · x + b_i;   f = log σ(w_f · x + b_f)
    m ← max(f + m, i);   f' = exp(f + m₋₁ − m);   i' = exp(i − m)
    C ← f' C + i' v ⊗ k / √K;   n ← f' n + i' k / √K
    y = σ(W_o x) ⊙ GroupNorm(C q / max(|n · q|, exp(−m)))

n is kept as one more row of C, the one that is written with the value 1. m is a choice of units:
C and n stand for exp(m) C and exp(m) n, and no value of m changes what is read. Gradients are
therefore taken with m held fixed, which leaves them exact, and reach the m that a call starts
with, where C and n are measured in it. So nothing but C and n carries a gradient along time.

As in the released code, a norm per head follows the read (there without bias), the denominator is
kept above 1e-6, w_i = w_f = 0 at first, b_i ~ N(0, 0.01), and b_f rises from 3 to 6 over the heads.
Its gates see q, k and v, here they see x as in the paper; its up-projection and convolution are
left out, for the blocks are those of the other cores. State: per layer C and n [B, H, V + 1, K],
and m [B, H].
"""

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwp_rl.cores.base import CORES, Core, record
from fwp_rl.cores.fast_weight_block import FastWeightCore, HeadsConfig, Memory
from fwp_rl.kernels.fast_weight import fast_weight
from fwp_rl.types import State

__all__ = ["MLSTMConfig"]

_FLOOR: Final = 1e-6


@CORES.register("mlstm")
@dataclass(frozen=True, kw_only=True)
class MLSTMConfig(HeadsConfig):
    """The matrix memory of xLSTM: exponential gates and a normaliser."""

    def build(self, input_size: int) -> Core:
        return FastWeightCore(self, input_size, lambda layer: _MatrixMemory(self))


class _MatrixMemory(Memory):
    cuts_gradients = True

    def __init__(self, config: MLSTMConfig) -> None:
        super().__init__()
        D, H, V = config.hidden_size, config.heads, config.value_size
        self.heads = H
        self.slow_net = nn.Linear(D, 3 * D, bias=False)
        self.gates = nn.Linear(D, 2 * H)
        self.output_gate = nn.Linear(D, D, bias=False)
        self.norm = nn.GroupNorm(H, D)
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            self.gates.bias[:H].normal_(std=0.1)
            self.gates.bias[H:] = torch.linspace(3, 6, H)
        self.state_shapes = ((H, V + 1, V), (H,))

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        C, m_before = state
        q, k, v = self.slow_net(x).unflatten(-1, (self.heads, -1)).chunk(3, dim=-1)
        log_i, gate = self.gates(x).chunk(2, dim=-1)
        log_f = F.logsigmoid(gate)
        m = _stabiliser(log_i, log_f, m_before, reset)
        before = torch.cat([m_before[None], m[:-1]]).masked_fill(reset[..., None], 0)
        log_decay, beta = log_f + before - m, (log_i - m).exp()
        read, C = fast_weight(
            q,
            k * k.shape[-1] ** -0.5,
            F.pad(v, (0, 1), value=1.0),
            beta,
            C,
            log_decay=log_decay,
            reset=reset,
            gradient_horizon=self.horizon,
            rule="sum",
        )
        weight = torch.maximum(read[..., -1:].abs(), (-m[..., None]).exp()).clamp_min(_FLOOR)
        y = (read[..., :-1] / weight).flatten(-2)
        y = self.norm(y.flatten(0, 1)).unflatten(0, reset.shape)
        record("beta", beta)
        record("decay", log_decay.exp())
        record("fast_weight", C[..., :-1, :])
        return self.output_gate(x).sigmoid() * y, (C, m[-1])


@torch.no_grad()
def _stabiliser(log_i: Tensor, log_f: Tensor, m: Tensor, reset: Tensor) -> Tensor:
    """m after each step [T, B, H], from m before the first [B, H]."""
    after = []
    for i, f, reset_t in zip(log_i, log_f, reset, strict=True):
        m = torch.maximum(f + m.masked_fill(reset_t[:, None], 0), i)
        after.append(m)
    return torch.stack(after)
