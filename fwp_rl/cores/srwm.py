"""Self-referential weight matrix: one matrix that reads, and emits its own changes.

Irie et al., "A Modern Self-Referential Weight Matrix That Learns to Modify Itself" (2022). Per
head, x a head's share of the residual stream, which gets no LayerNorm here:

    y, q, k, b = W softmax(x)                                       read before the write
    W_g ← W_g + σ(b_g) (W_g softmax(q) − W_g softmax(k)) ⊗ softmax(k)        g = y, q, k, b

The rows of W form the blocks W_y, W_q, W_k, W_b; b holds one rate for each block. Only the initial
W is trained, drawn with standard deviation 1/√K by default; it is kept as base weights, and the
state is the shift from them, so that zeros are the initial W. ``updates: false`` is the paper's
control ("fake SR"): a plain y = W_y x without softmax, without memory. State: per layer dW_y, dW_q,
dW_k [B, H, K, K] and dW_b [B, H, 4, K]; none without updates.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from fwp_rl.config import Range
from fwp_rl.cores.base import CORES, Core, record
from fwp_rl.cores.fast_weight_block import FastWeightCore, HeadsConfig, Memory
from fwp_rl.kernels.srwm import srwm
from fwp_rl.types import State

__all__ = ["SRWMConfig"]


@CORES.register("srwm")
@dataclass(frozen=True, kw_only=True)
class SRWMConfig(HeadsConfig):
    """A weight matrix that reads its input and rewrites itself."""

    initial_scale: Annotated[float, Range(0, above=True)] = 1.0
    """Standard deviation of the initial matrix, times √K; the authors' is 1. The softmax of small
    numbers is nearly uniform, so that the matrix hardly changes at first: with a larger scale and
    smaller heads it learns to remember sooner, but may overflow in long episodes."""
    updates: bool = True
    """Whether the matrix modifies itself; without, it is the paper's control: no memory."""

    def build(self, input_size: int) -> Core:
        make = _SelfReferential if self.updates else _Static
        return FastWeightCore(self, input_size, lambda layer: make(self))


class _Static(Memory):
    pre_norm = False
    cuts_gradients = True

    def __init__(self, config: SRWMConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.W_y = _base_weight(config, config.value_size)
        self.state_shapes = ()

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        y = torch.einsum("hvk,tbhk->tbhv", self.W_y, x.unflatten(-1, (self.heads, -1)))
        return y.flatten(-2), state


class _SelfReferential(Memory):
    pre_norm = False
    cuts_gradients = True

    def __init__(self, config: SRWMConfig) -> None:
        super().__init__()
        H, K = config.heads, config.value_size
        self.heads = H
        self.W_y, self.W_q, self.W_k = (_base_weight(config, K) for _ in range(3))
        self.W_b = _base_weight(config, 4)
        self.state_shapes = ((H, K, K), (H, K, K), (H, K, K), (H, 4, K))

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        x = x.unflatten(-1, (self.heads, -1))
        y, after = self._run(x, state, reset)
        record("beta", lambda: self._beta(x, state, reset))
        record("fast_weight", lambda: self.W_y + after[0])
        return y.flatten(-2), after

    def _run(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        dW_y, dW_q, dW_k, dW_b = state
        base = self.W_y, self.W_q, self.W_k, self.W_b
        return srwm(x, *base, (dW_y, dW_q, dW_k, dW_b), reset=reset, gradient_horizon=self.horizon)

    def _beta(self, x: Tensor, state: State, reset: Tensor) -> Tensor:
        """The four rates [T, B, H, 4], which the op keeps to itself: replayed step by step."""
        rates = []
        for t in range(len(x)):
            dW_b = state[3].masked_fill(reset[t, :, None, None, None], 0)
            rates.append(torch.einsum("bhgk,bhk->bhg", self.W_b + dW_b, x[t].softmax(-1)))
            _, state = self._run(x[t : t + 1], state, reset[t : t + 1])
        return torch.stack(rates).sigmoid()


def _base_weight(config: SRWMConfig, rows: int) -> nn.Parameter:
    K = config.value_size
    return nn.Parameter(config.initial_scale * K**-0.5 * torch.randn(config.heads, rows, K))
