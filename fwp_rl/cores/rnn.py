"""torch's fused LSTM and GRU, with resets inside the sequence.

LSTM: Hochreiter and Schmidhuber, "Long short-term memory" (1997). GRU: Cho et al., "Learning
phrase representations using RNN encoder-decoder" (2014). The equations are those of
``torch.nn.LSTM`` and ``torch.nn.GRU``, one layer. State: (h, c) or (h,), each [B, hidden_size].
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from fwp_rl.config import Range
from fwp_rl.cores.base import CORES, Core, RecurrentCoreConfig
from fwp_rl.types import State

__all__ = ["GRUConfig", "LSTMConfig"]


@CORES.register("lstm")
@dataclass(frozen=True, kw_only=True)
class LSTMConfig(RecurrentCoreConfig):
    """Long short-term memory, one layer: the baseline with a vector for a memory."""

    hidden_size: Annotated[int, Range(1)] = 256
    """Size of the hidden vector and of the cell, each."""

    def build(self, input_size: int) -> Core:
        return _RNN(self, input_size, nn.LSTM(input_size, self.hidden_size), leaves=2)


@CORES.register("gru")
@dataclass(frozen=True, kw_only=True)
class GRUConfig(RecurrentCoreConfig):
    """Gated recurrent unit, one layer."""

    hidden_size: Annotated[int, Range(1)] = 256
    """Size of the hidden vector."""

    def build(self, input_size: int) -> Core:
        return _RNN(self, input_size, nn.GRU(input_size, self.hidden_size), leaves=1)


class _RNN(Core):
    def __init__(
        self,
        config: LSTMConfig | GRUConfig,
        input_size: int,
        rnn: nn.LSTM | nn.GRU,
        *,
        leaves: int,
    ) -> None:
        super().__init__(config, input_size)
        self.rnn = rnn
        self.leaves = leaves
        self.output_size = config.hidden_size
        self.state_names = ("hidden", "cell")[:leaves]

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        return tuple(
            torch.zeros(batch_size, self.output_size, device=device) for _ in range(self.leaves)
        )

    def unroll(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        outputs = []
        for start, stop in _pieces(reset):
            # torch.where, not a product: 0 times NaN is NaN
            first = reset[start, :, None]
            state = tuple(torch.where(first, 0.0, leaf) for leaf in state)
            y, state = self._run(x[start:stop], state)
            outputs.append(y)
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), state

    def _run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The fused call; torch wants a layer axis in front of the state."""
        layered = tuple(leaf.unsqueeze(0) for leaf in state)
        y, final = self.rnn(x, layered if len(layered) == 2 else layered[0])
        final = final if isinstance(final, tuple) else (final,)
        return y, tuple(leaf.squeeze(0) for leaf in final)


def _pieces(reset: Tensor) -> list[tuple[int, int]]:
    """Cuts the time axis before each step t > 0 at which any column resets: (start, stop)."""
    steps = len(reset)
    if steps == 1:  # acting: spares a GPU the synchronisation of nonzero
        return [(0, 1)]
    cuts = (reset[1:].any(dim=1).nonzero().flatten() + 1).tolist()
    return list(zip([0, *cuts], [*cuts, steps], strict=True))
