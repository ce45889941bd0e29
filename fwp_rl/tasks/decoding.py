"""Translations from a core's state, one symbol at a time: greedy, and by beam search.

The core reads the sources once. Its state then goes along with each translation that is begun: a
beam that splits in two takes a copy of its state with it, row by row of every leaf [B, ...].
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fwp_rl.tasks.symbols import SequenceModel
from fwp_rl.types import State

__all__ = ["Translation", "beam_search", "greedy"]


@dataclass(frozen=True, slots=True)
class Translation:
    """Of one source, without the boundary at its end."""

    symbols: list[int]
    ended: bool
    """It came to an end itself, not by the limit."""


def greedy(
    model: SequenceModel, prompts: Tensor, reset: Tensor, *, boundary: int, limit: int
) -> list[Translation]:
    """The most probable symbol at each step, up to ``limit`` symbols.

    prompts  [T, B]  int64  what is read first: sources and the boundary, which all end at T
    reset    [T, B]  bool   where each begins
    """
    answer, state = _read(model, prompts, state=None, reset=reset)
    going = torch.arange(prompts.shape[1], device=prompts.device)
    written: list[list[int]] = [[] for _ in range(prompts.shape[1])]
    ended = [False] * prompts.shape[1]
    for _ in range(limit + 1):
        chosen = answer.argmax(-1)
        goes_on = chosen != boundary
        for column, symbol in zip(going.tolist(), chosen.tolist(), strict=True):
            if symbol == boundary:
                ended[column] = True
            else:
                written[column].append(symbol)
        # what has ended is computed no further
        kept = goes_on.nonzero().squeeze(1)
        if not len(kept):
            break
        going, chosen = going[kept], chosen[kept]
        answer, state = _read(model, chosen[None], state=_rows(state, kept))
    return [Translation(symbols[:limit], end) for symbols, end in zip(written, ended, strict=True)]


def beam_search(
    model: SequenceModel,
    prompts: Tensor,
    reset: Tensor,
    *,
    boundary: int,
    limit: int,
    beams: int,
    length_penalty: float = 1.0,
) -> list[Translation]:
    """The best translation that a search of so many beams meets, by

        log p(translation) / (symbols and boundary) ** length_penalty

    At each step the 2 K best continuations of a source's K beams are looked at, by log p. Those of
    the first K that end are finished; the K best that do not end go on. A source is done when it
    has K finished ones, or at ``limit`` symbols: where none is finished then, the best that goes on
    is taken. So does fairseq, which P1 used.

    prompts, reset  as for ``greedy``
    """
    B, device = prompts.shape[1], prompts.device
    answer, state = _read(model, prompts, state=None, reset=reset)
    first = torch.arange(B, device=device).repeat_interleave(beams)
    answer, state = answer[first], _rows(state, first)
    # at first all beams of a source are the same, so that but one may go on
    score = torch.full((B, beams), -torch.inf, device=device)
    score[:, 0] = 0
    written = torch.empty(B, beams, 0, dtype=torch.int64, device=device)
    found = [_Found() for _ in range(B)]
    for length in range(1, limit + 2):
        best, parent, symbol = _continuations(score, answer.log_softmax(-1), beams)
        ends = symbol == boundary
        for row, rank in (ends[:, :beams] & best[:, :beams].isfinite()).nonzero().tolist():
            if found[row].count < beams:
                prefix = written[row, int(parent[row, rank])].tolist()
                found[row].finish(float(best[row, rank]) / length**length_penalty, prefix)
        # the K best that do not end; the sort is stable, so that they stay in order
        goes_on = ends.int().sort(dim=1, stable=True).indices[:, :beams]
        score, parent, symbol = (x.gather(1, goes_on) for x in (best, parent, symbol))
        if length > limit or all(one.count >= beams for one in found):
            break
        written = torch.cat([_beams_of(written, parent), symbol[..., None]], -1)
        rows = (torch.arange(B, device=device)[:, None] * beams + parent).flatten()
        answer, state = _read(model, symbol.flatten()[None], state=_rows(state, rows))
    return [
        Translation(one.symbols, True)
        if one.symbols is not None
        else Translation(written[row, 0].tolist(), False)
        for row, one in enumerate(found)
    ]


@dataclass(slots=True)
class _Found:
    """Of one source: how many translations are finished, and the best of them."""

    count: int = 0
    value: float = -torch.inf
    symbols: list[int] | None = None

    def finish(self, value: float, symbols: list[int]) -> None:
        self.count += 1
        if value > self.value or self.symbols is None:
            self.value, self.symbols = value, symbols


def _continuations(score: Tensor, log_p: Tensor, beams: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best 2 K, best first: log p, beam and symbol, each [B, 2 K].

    score  [B, K]              log p of the beams
    log_p  [B K, symbols + 1]  of what may come next
    """
    outputs = log_p.shape[-1]
    total = (score.flatten()[:, None] + log_p).view(len(score), -1)
    best, place = total.topk(min(2 * beams, total.shape[1]), dim=1)
    return best, place // outputs, place % outputs


def _beams_of(x: Tensor, beam: Tensor) -> Tensor:
    """x [B, K, N] at beams [B, K]."""
    return x.gather(1, beam[..., None].expand(-1, -1, x.shape[2]))


def _rows(state: State, rows: Tensor) -> State:
    return tuple(leaf.index_select(0, rows) for leaf in state)


def _read(
    model: SequenceModel, symbols: Tensor, *, state: "State | None", reset: Tensor | None = None
) -> tuple[Tensor, State]:
    """Logits [B, outputs] after the last of symbols [T, B], and the state."""
    if state is None:
        state = model.initial_state(symbols.shape[1], symbols.device)
    if reset is None:
        reset = torch.zeros_like(symbols, dtype=torch.bool)
    y, state = model.features(symbols, state, reset)
    logits: Tensor = model.head(y[-1])
    return logits, state
