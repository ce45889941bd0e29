"""Delta RNN: a recurrent net whose recurrent matrix is fast weights, on top of a delta net.

Irie et al., "Going Beyond Linear Transformers with Recurrent Fast Weight Programmers" (2021). Per
head, x after LayerNorm:

    q, k, v, b, k', v', b' = slow net(x);   β, β' = σ(b), σ(b')
    W ← W + β (v − W φ(k)) ⊗ φ(k);   z = W φ(q)
    R ← R + β' (v' − R softmax(k')) ⊗ softmax(k')
    v2:  y = z + R softmax(y₋₁)         v1:  y = softmax(z + R y₋₁)

v2 is the Delta RNN of the paper's main tables, v1 one of its ablations. φ is softmax, as in the
authors' reinforcement-learning code; the paper, and their language models of version v2, have
ELU + 1, sum-normalised. At the start of an episode y₋₁ is 0, which makes v2's first query uniform.
State: per layer W [B, H, V, K], R [B, H, V, V] and y₋₁ [B, H, V].
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fwp_rl.cores.base import CORES, Core, record
from fwp_rl.cores.fast_weight_block import (
    FastWeightConfig,
    FastWeightCore,
    Memory,
    QueryKeyValue,
)
from fwp_rl.cores.feature_maps import FeatureMapName
from fwp_rl.kernels.fast_rnn import fast_rnn
from fwp_rl.kernels.fast_weight import fast_weight
from fwp_rl.types import State

__all__ = ["DeltaRNNConfig"]


@CORES.register("delta_rnn")
@dataclass(frozen=True, kw_only=True)
class DeltaRNNConfig(FastWeightConfig):
    """A delta net plus a recurrent net whose recurrent matrix the delta rule writes."""

    feature_map: FeatureMapName = "softmax"
    """Map of the delta net's keys and queries, normalisation included; the recurrent ones always
    take softmax."""
    version: Literal["v2", "v1"] = "v2"
    """v2: softmax on the way into the recurrent matrix. v1: on the output."""

    def build(self, input_size: int) -> Core:
        return FastWeightCore(self, input_size, lambda layer: _DeltaRNNMemory(self))


class _DeltaRNNMemory(Memory):
    cuts_gradients = True

    def __init__(self, config: DeltaRNNConfig) -> None:
        super().__init__()
        H, V = config.heads, config.value_size
        self.slow_net = QueryKeyValue(config, extra=2 * V + 2)
        self.recurrent_sizes = [V, V, 1, 1]
        self.maps = ("softmax", "identity") if config.version == "v2" else ("identity", "softmax")
        self.state_shapes = ((H, V, self.slow_net.key_size), (H, V, V), (H, V))

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        W, R, y_prev = state
        query, output = self.maps
        q, k, v, extra = self.slow_net(x)
        rk, rv, *rates = extra.split(self.recurrent_sizes, dim=-1)
        beta, rbeta = (rate.squeeze(-1).sigmoid() for rate in rates)
        z, W = fast_weight(
            q, k, v, beta, W, reset=reset, gradient_horizon=self.horizon, rule="delta"
        )
        y, after = fast_rnn(
            z,
            rk.softmax(-1),
            rv,
            rbeta,
            (R, y_prev),
            reset=reset,
            query=query,
            output=output,
            gradient_horizon=self.horizon,
        )
        record("beta", beta)
        record("fast_weight", W)
        record("recurrent_beta", rbeta)
        record("recurrent_fast_weight", after[0])
        return y.flatten(-2), (W, *after)
