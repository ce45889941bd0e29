"""torch's fused LSTM and GRU, with resets inside the sequence.

LSTM: Hochreiter and Schmidhuber, "Long short-term memory" (1997). GRU: Cho et al., "Learning
phrase representations using RNN encoder-decoder" (2014). The equations are those of
``torch.nn.LSTM`` and ``torch.nn.GRU``, one layer. State: (h, c) or (h,), each [B, hidden_size].
"""

from dataclasses import dataclass
from typing import Annotated, Literal

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
        return _RNN(self, input_size, "LSTM", leaves=2)


@CORES.register("gru")
@dataclass(frozen=True, kw_only=True)
class GRUConfig(RecurrentCoreConfig):
    """Gated recurrent unit, one layer."""

    hidden_size: Annotated[int, Range(1)] = 256
    """Size of the hidden vector."""

    def build(self, input_size: int) -> Core:
        return _RNN(self, input_size, "GRU", leaves=1)


class _RNN(Core):
    def __init__(
        self,
        config: LSTMConfig | GRUConfig,
        input_size: int,
        mode: Literal["LSTM", "GRU"],
        *,
        leaves: int,
    ) -> None:
        super().__init__(config, input_size)
        self.rnn = _Fused(mode, input_size, config.hidden_size)
        self.leaves = leaves
        self.output_size = config.hidden_size
        self.state_names = ("hidden", "cell")[:leaves]

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        return tuple(
            torch.zeros(batch_size, self.output_size, device=device) for _ in range(self.leaves)
        )

    def unroll(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        if torch.compiler.is_compiling():  # where to cut time is not known before the resets are
            return self._step_by_step(x, state, reset)
        outputs = []
        for start, stop in _pieces(reset):
            y, state = self.rnn(x[start:stop], _cleared(state, reset[start]))
            outputs.append(y)
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), state

    def _step_by_step(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        (weights,) = self.rnn.all_weights
        outputs = []
        for x_t, reset_t in zip(x, reset, strict=True):
            state = _cleared(state, reset_t)
            if self.leaves == 2:
                state = torch.lstm_cell(x_t, state, *weights)
            else:
                state = (torch.gru_cell(x_t, state[0], *weights),)
            outputs.append(state[0])
        return torch.stack(outputs), state


class _Fused(nn.RNNBase):
    """What nn.LSTM and nn.GRU are, under another name: torch compiles no module that holds one.

    forward(x [T, B, D], state, leaves [B, hidden_size]) -> y [T, B, hidden_size], state
    """

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        weights = tuple(self.all_weights[0])
        options = True, 1, 0.0, self.training, False, False  # biases, layers, dropout, ...
        layered = tuple(leaf.unsqueeze(0) for leaf in state)
        if self.mode == "LSTM":
            y, *final = torch.lstm(x, layered, weights, *options)
        else:
            y, *final = torch.gru(x, layered[0], weights, *options)
        return y, tuple(leaf.squeeze(0) for leaf in final)


def _cleared(state: State, reset: Tensor) -> State:
    """Zeros in the columns that reset [B]. Not by a product: 0 times NaN is NaN."""
    return tuple(torch.where(reset[:, None], 0.0, leaf) for leaf in state)


def _pieces(reset: Tensor) -> list[tuple[int, int]]:
    """Cuts the time axis before each step t > 0 at which any column resets: (start, stop)."""
    steps = len(reset)
    if steps == 1:  # acting: spares a GPU the synchronisation of nonzero
        return [(0, 1)]
    cuts = (reset[1:].any(dim=1).nonzero().flatten() + 1).tolist()
    return list(zip([0, *cuts], [*cuts, steps], strict=True))
