"""GTrXL: attention over a sliding window, gated: the softmax baseline.

Parisotto et al., "Stabilizing Transformers for Reinforcement Learning" (2019), on the attention of
Dai et al., "Transformer-XL" (2019). h the residual stream, m its normalised past, per head:

    x = LN(h);   score_j = ((W_q x + u) · W_k m_j + (W_q x + v) · W_r p_j) / √K
    a = Σ_j softmax(score)_j W_v m_j         over the step itself and the ``window`` before it
    h ← g(h, ReLU(Out(a)));   h ← g'(h, ReLU(FF(LN(h))))
    g(h, y) = (1 − z) ⊙ h + z ⊙ tanh(W_g y + U_g (r ⊙ h))
              r = σ(W_r y + U_r h);   z = σ(W_z y + U_z h − b),   b = 2 at first

p_j are the sinusoids of how many steps ago j was. Only steps of the episode are seen. Keys and
values are never formed: (W_q x) · (W_k m_j) = (W_kᵀ W_q x) · m_j, and W_v is applied to the sum,
which makes a step's cost that of the window's dot products alone.

The paper has 12 layers of size 256 with 8 heads of 64 and a window of 512, and no gradient into
the window; here the sizes are those of the other cores, with a window that makes the state as
large as a Delta RNN's, and gradients reach all that is in the window, those before the unroll as
the initial state.

At first the two gates of a layer let through 0.6 of the variance of h; the input projection starts
with 2 instead, so that after the default two layers it is still near that of the input.

State: per layer the window's x [B, window, hidden_size + 1], oldest first, zeros where nothing has
been yet; the last number of a slot is 1 where it is filled.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwp_rl.config import Range
from fwp_rl.cores.base import CORES, Core, record
from fwp_rl.cores.dropout import Dropout
from fwp_rl.cores.fast_weight_block import (
    BlockConfig,
    FastWeightCore,
    HeadsConfig,
    Memory,
    feedforward,
)
from fwp_rl.types import State

__all__ = ["GTrXLConfig"]


@CORES.register("gtrxl")
@dataclass(frozen=True, kw_only=True)
class GTrXLConfig(HeadsConfig):
    """Gated Transformer-XL over a sliding window: softmax attention, no fast weights."""

    window: Annotated[int, Range(1)] = 64
    """Steps before the present one that each layer can look back on."""

    def build(self, input_size: int) -> Core:
        core = FastWeightCore(self, input_size, lambda layer: _Attention(self), _GatedBlock)
        core.state_names = tuple(f"window of layer {i + 1}" for i in range(self.layers))
        nn.init.normal_(core.input_projection.weight, std=(2 / input_size) ** 0.5)
        return core


class _GatedBlock(nn.Module):
    def __init__(self, config: BlockConfig, memory: Memory) -> None:
        super().__init__()
        d = config.hidden_size
        self.norm = nn.LayerNorm(d)
        self.memory = memory
        self.out = nn.Linear(d, d, bias=False)
        self.dropout = Dropout(config.dropout)
        self.memory_gate = _Gate(d)
        self.feedforward = feedforward(config)
        self.feedforward_gate = _Gate(d)

    def forward(self, h: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        y, state = self.memory(self.norm(h), state, reset)
        h = self.memory_gate(h, self.dropout(self.out(y)).relu())
        return self.feedforward_gate(h, self.feedforward(h).relu()), state


class _Gate(nn.Module):
    """g(h, y) of the GRU type: nearly h at first."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.of_y = nn.Linear(size, 3 * size, bias=False)
        self.of_h = nn.Linear(size, 2 * size, bias=False)
        self.of_reset_h = nn.Linear(size, size, bias=False)
        self.bias = nn.Parameter(torch.full((size,), 2.0))

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        y_r, y_z, y_g = self.of_y(y).chunk(3, dim=-1)
        h_r, h_z = self.of_h(h).chunk(2, dim=-1)
        r = (y_r + h_r).sigmoid()
        z = (y_z + h_z - self.bias).sigmoid()
        return torch.lerp(h, (y_g + self.of_reset_h(r * h)).tanh(), z)


class _Attention(Memory):
    def __init__(self, config: GTrXLConfig) -> None:
        super().__init__()
        d, self.heads, self.window = config.hidden_size, config.heads, config.window
        self.query, self.key, self.value, self.position = (
            nn.Linear(d, d, bias=False) for _ in range(4)
        )
        self.content_bias = nn.Parameter(torch.zeros(self.heads, config.value_size))
        self.position_bias = nn.Parameter(torch.zeros(self.heads, config.value_size))
        self.register_buffer("sinusoids", _sinusoids(self.window, d), persistent=False)
        self.state_shapes = ((self.window, d + 1),)

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        # W slots, then the T steps: [W + T, B, D + 1]
        slots = torch.cat([state[0].movedim(1, 0), F.pad(x, (0, 1), value=1.0)])
        filled = slots[..., -1] != 0
        episode = reset.cumsum(0)
        slot_episode = F.pad(episode, (0, 0, self.window, 0))
        visible = filled & (slot_episode == episode[:, None])  # [T, W + T, B]
        y = self._attend(x, slots[..., :-1], visible & self._in_window(visible)[..., None])
        kept = slots.masked_fill(~visible[-1, :, :, None], 0)[-self.window :]
        return y, (kept.movedim(0, 1),)

    def _in_window(self, visible: Tensor) -> Tensor:
        """Whether slot j is at most ``window`` steps before step t, not after it: [T, W + T]."""
        return torch.ones_like(visible[..., 0]).triu().tril(self.window)

    def _attend(self, x: Tensor, past: Tensor, visible: Tensor) -> Tensor:
        """x [T, B, D], past [W + T, B, D], visible [T, W + T, B] -> [T, B, D]"""
        by_head = (self.heads, -1)
        q = self.query(x).unflatten(-1, by_head)
        position = self.position(self.sinusoids).unflatten(-1, by_head)
        scale = q.shape[-1] ** -0.5
        score = torch.einsum("tbhk,whk->bhtw", (q + self.position_bias) * scale, position)
        score = _by_slot(score).masked_fill(~visible.movedim(2, 0)[:, None], -torch.inf)
        key, value = (p.weight.unflatten(0, by_head) for p in (self.key, self.value))
        query = torch.einsum("tbhk,hkd->bhtd", q + self.content_bias, key)
        # A NaN that is masked out would still pass: its weight is 0, and 0 times NaN is NaN.
        past = past.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).movedim(1, 0)
        read = F.scaled_dot_product_attention(
            query.flatten(1, 2), past, past, attn_mask=score.flatten(1, 2), scale=scale
        )

        def attention() -> Tensor:
            """[T, B, H, W + 1], the present step last"""
            content = torch.einsum("bhtd,bwd->bhtw", query, past) * scale
            return _by_steps_ago((content + score).softmax(-1)).movedim(2, 0)

        record("attention", attention)
        heads = read.unflatten(1, (self.heads, -1))  # [B, H, T, D]
        return torch.einsum("bhtd,hkd->tbhk", heads, value).flatten(-2)


def _by_slot(score: Tensor) -> Tensor:
    """[..., T, W + 1], oldest first, to [..., T, W + T]: each row starts one slot later than the
    one before, and has zeros elsewhere."""
    T, distances = score.shape[-2:]
    flat = F.pad(score, (0, T)).flatten(-2)
    by_slot: Tensor = flat[..., : T * (distances - 1 + T)].unflatten(-1, (T, -1))
    return by_slot


def _by_steps_ago(score: Tensor) -> Tensor:
    """The inverse of ``_by_slot``."""
    T, slots = score.shape[-2:]
    by_steps_ago: Tensor = F.pad(score.flatten(-2), (0, T)).unflatten(-1, (T, -1))
    return by_steps_ago[..., : slots - T + 1]


def _sinusoids(window: int, size: int) -> Tensor:
    """Of ``window``, ..., 1, 0 steps ago: sines, then cosines, float32 [window + 1, size]."""
    ago = torch.arange(window, -1, -1, dtype=torch.float64)
    frequency = 10_000 ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = ago[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[:, :size].float()
