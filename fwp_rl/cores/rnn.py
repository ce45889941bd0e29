"""torch's fused LSTM and GRU, with resets inside the sequence.

LSTM: Hochreiter and Schmidhuber, "Long short-term memory" (1997). GRU: Cho et al., "Learning
phrase representations using RNN encoder-decoder" (2014). The equations are those of
``torch.nn.LSTM`` and ``torch.nn.GRU``, one layer, with dropout of what goes in and what comes out.
State: (h, c) or (h,), each [B, hidden_size].

Neither knows of resets: an unroll with resets inside is brought to them in one of two ways, with
the same results and gradients. Packed: what lies between two resets of a column is a sequence of
its own, and all sequences of all columns are one batch, in one call; on a GPU always, after one
wait for the resets. Cut: a call for each piece of time without a reset of any column; on a CPU,
where packed sequences take longer a step, as long as resets are few.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fwp_rl.config import Range
from fwp_rl.cores.base import CORES, Core, RecurrentCoreConfig
from fwp_rl.cores.dropout import Dropout
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


Way = Literal["packed", "cut"]


class _RNN(Core):
    way: Way | None = None
    """How unrolls with resets inside are run; None: as is faster."""

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
        self.dropout = Dropout(config.dropout)
        self.leaves = leaves
        self.output_size = config.hidden_size
        self.state_names = ("hidden", "cell")[:leaves]

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        return tuple(
            torch.zeros(batch_size, self.output_size, device=device) for _ in range(self.leaves)
        )

    def unroll(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        y, state = self._run(self.dropout(x), state, reset)
        return self.dropout(y), state

    def _run(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        if torch.compiler.is_compiling():  # where episodes begin is not known before the resets are
            return self._step_by_step(x, state, reset)
        if len(x) > 1:  # acting does not wait for the resets
            begins = reset.cpu().numpy()
            if begins[1:].any():
                pack = _Packing.of(begins)
                if (self.way or self._faster(x, begins, pack)) == "packed":
                    return self._packed(x, _cleared(state, reset[0]), pack)
                return self._cut(x, state, reset, begins)
        y, state = self.rnn(x, _cleared(state, reset[0]))
        return y, state

    def _faster(self, x: Tensor, begins: NDArray[np.bool_], pack: "_Packing") -> Way:
        """The way that is faster on the device of x. On a CPU, as measured on 2 cores: a step of
        packed sequences, and a call, take as long as so many steps that are not packed."""
        if not x.is_cpu:
            return "packed"
        packed_step, call = (4.5, 8) if self.leaves == 2 else (1.3, 1)
        calls = 1 + begins[1:].any(1).sum()
        return "packed" if packed_step * len(pack.sizes) < len(x) + call * calls else "cut"

    def _packed(self, x: Tensor, state: State, pack: "_Packing") -> tuple[Tensor, State]:
        shape, pack = x.shape[:2], pack.to(x.device)
        # a sequence begins with its column's state, or with one of the zeros behind them
        later = len(pack.first) - shape[1]
        first = (torch.cat([leaf, leaf.new_zeros(later, leaf.shape[1])]) for leaf in state)
        y, last = self.rnn(
            x.flatten(0, 1).index_select(0, pack.steps),
            tuple(leaf.index_select(0, pack.first) for leaf in first),
            pack.sizes,
        )
        y = y.index_select(0, pack.places).unflatten(0, shape)
        return y, tuple(leaf.index_select(0, pack.last) for leaf in last)

    def _cut(
        self, x: Tensor, state: State, reset: Tensor, begins: NDArray[np.bool_]
    ) -> tuple[Tensor, State]:
        cuts = (np.flatnonzero(begins[1:].any(1)) + 1).tolist()
        outputs = []
        for start, stop in pairwise([0, *cuts, len(x)]):
            y, state = self.rnn(x[start:stop], _cleared(state, reset[start]))
            outputs.append(y)
        return torch.cat(outputs), state

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
    forward(x [N, D], state, leaves [S, hidden_size], sizes) -> y [N, hidden_size], state
        of S packed sequences, of which sizes[t] have a step t; N is their sum
    """

    def forward(self, x: Tensor, state: State, sizes: Tensor | None = None) -> tuple[Tensor, State]:
        weights = tuple(self.all_weights[0])
        options = True, 1, 0.0, self.training, False  # biases, layers, dropout, ..., directions
        layered = tuple(leaf.unsqueeze(0) for leaf in state)
        lstm = self.mode == "LSTM"
        run: Callable[..., tuple[Tensor, ...]] = torch.lstm if lstm else torch.gru
        start = layered if lstm else layered[0]
        if sizes is None:
            y, *final = run(x, start, weights, *options, False)  # not batch first
        else:
            y, *final = run(x, sizes, start, weights, *options)
        return y, tuple(leaf.squeeze(0) for leaf in final)


def _cleared(state: State, reset: Tensor) -> State:
    """Zeros in the columns that reset [B]. Not by a product: 0 times NaN is NaN."""
    return tuple(torch.where(reset[:, None], 0.0, leaf) for leaf in state)


class _Packing(NamedTuple):
    """The sequences between the resets of B columns of T steps, as cuDNN wants them: sorted, the
    longest first, and the first steps of all before the second steps of those that have one.

    steps   [T B]     step and column of each packed step, as a row of x [T B, D]
    places  [T B]     the inverse: where each row of x is packed
    first   [S]       what each sequence begins with: a column below B, from B on a reset's zeros
    last    [B]       the sequence that each column ends with
    sizes   [length]  how many sequences have a step t; on the CPU, as torch wants it
    """

    steps: Tensor
    places: Tensor
    first: Tensor
    last: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, reset: NDArray[np.bool_]) -> "_Packing":
        """Of resets [T, B]."""
        T, B = reset.shape
        begins = reset.T.copy()  # a column's steps behind each other
        begins[:, 0] = True
        start = np.flatnonzero(begins)
        length = np.diff(start, append=T * B)
        order = np.argsort(-length, kind="stable")
        start, length = start[order], length[order]
        column, step = np.divmod(start, T)
        first = np.where(step == 0, column, B + np.cumsum(step > 0) - 1)
        ends = step + length == T
        last = np.empty(B, np.int64)
        last[column[ends]] = np.flatnonzero(ends)
        times = np.arange(length[0])[:, None]
        under_way = times < length  # [length, S]
        column, step = np.divmod((start + times)[under_way], T)
        steps = step * B + column
        places = np.empty_like(steps)
        places[steps] = np.arange(T * B)
        arrays = steps, places, first, last, under_way.sum(1)
        return cls(*map(torch.from_numpy, arrays))

    def to(self, device: torch.device) -> "_Packing":
        """On a device, but for the sizes, by one copy."""
        *moved, sizes = self
        together = torch.cat(moved).to(device, non_blocking=True)
        steps, places, first, last = together.split([len(x) for x in moved])
        return _Packing(steps, places, first, last, sizes)
