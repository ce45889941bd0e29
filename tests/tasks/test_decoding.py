"""Decoding from a core's state, against reading everything again at each step."""

import itertools
from typing import Final

import numpy as np
import pytest
import torch
from torch import Tensor

from fwp_rl.cores import CoreConfig
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.cores.gated_delta_net import GatedDeltaNetConfig
from fwp_rl.cores.gtrxl import GTrXLConfig
from fwp_rl.cores.linear_transformer import LinearTransformerConfig
from fwp_rl.cores.recurrent_delta_net import RecurrentDeltaNetConfig
from fwp_rl.cores.rnn import LSTMConfig
from fwp_rl.tasks.decoding import beam_search, greedy
from fwp_rl.tasks.parallel import Pairs
from fwp_rl.tasks.symbols import SequenceModel

SMALL: Final = {"layers": 1, "hidden_size": 8, "heads": 2, "feedforward_size": 8}

CORES: Final[dict[str, CoreConfig]] = {
    "delta_net": DeltaNetConfig(**SMALL),
    "gated_delta_net": GatedDeltaNetConfig(**SMALL),
    "linear_transformer": LinearTransformerConfig(**SMALL, attention_normaliser=True),
    "recurrent_delta_net": RecurrentDeltaNetConfig(**SMALL),
    "gtrxl": GTrXLConfig(**SMALL, window=32),
    "lstm": LSTMConfig(hidden_size=8),
    "feedforward": FeedforwardConfig(),
}

SOURCES: Final = [[0], [3, 1, 2, 0, 3], [1, 1], [2, 0, 1], [], [2, 2, 2, 1]]


def opinionated(core: CoreConfig, symbols: int, *, seed: int = 0) -> SequenceModel:
    """Random weights whose answers differ, and end now and then."""
    torch.manual_seed(seed)
    model = SequenceModel(core, inputs=symbols + 1, outputs=symbols + 1, embedding_size=6)
    with torch.no_grad():
        model.embedding.weight.mul_(2)
        model.head.weight.mul_(8)
        model.head.bias[symbols] += 0.5
    return model.eval()


def prompts(sources: list[list[int]], boundary: int) -> tuple[Tensor, Tensor]:
    pairs = Pairs.of(sources, [[0]] * len(sources), boundary)
    return pairs.prompts(np.arange(len(sources)))


def next_log_p(model: SequenceModel, symbols: list[int]) -> Tensor:
    """Of what follows, by reading it all from the start."""
    column = torch.tensor(symbols)[:, None]
    reset = torch.zeros_like(column, dtype=torch.bool)
    reset[0] = True
    logits, _ = model(column, model.initial_state(1), reset)
    return logits[-1, 0].log_softmax(-1)


def slow_greedy(model: SequenceModel, read: list[int], boundary: int, limit: int) -> list[int]:
    written: list[int] = []
    while True:
        symbol = int(next_log_p(model, [*read, boundary, *written]).argmax())
        if symbol == boundary or len(written) == limit:
            return written
        written.append(symbol)


def slow_beam_search(
    model: SequenceModel, read: list[int], boundary: int, limit: int, beams: int, penalty: float
) -> list[int]:
    going: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    for length in range(1, limit + 2):
        continued = []
        for score, written in going:
            log_p = next_log_p(model, [*read, boundary, *written]).tolist()
            continued += [(score + p, written, symbol) for symbol, p in enumerate(log_p)]
        continued.sort(key=lambda x: -x[0])
        for score, written, symbol in continued[:beams]:
            if symbol == boundary and len(finished) < beams:
                finished.append((score / length**penalty, written))
        if len(finished) == beams or length > limit:
            break
        going = [(s, [*w, symbol]) for s, w, symbol in continued if symbol != boundary][:beams]
    return max(finished)[1] if finished else going[0][1]


@torch.no_grad()
@pytest.mark.parametrize("core", CORES)
def test_greedy_is_what_reading_all_again_gives(core: str) -> None:
    model = opinionated(CORES[core], 4)
    found = greedy(model, *prompts(SOURCES, 4), boundary=4, limit=7)
    for source, one in zip(SOURCES, found, strict=True):
        assert one.symbols == slow_greedy(model, source, 4, 7)
        assert one.ended or len(one.symbols) == 7


@torch.no_grad()
@pytest.mark.parametrize("core", CORES)
def test_beam_search_is_what_reading_all_again_gives(core: str) -> None:
    model = opinionated(CORES[core], 4, seed=1)
    for penalty in (0.0, 1.0):
        found = beam_search(
            model, *prompts(SOURCES, 4), boundary=4, limit=4, beams=3, length_penalty=penalty
        )
        for source, one in zip(SOURCES[:4], found, strict=False):
            assert one.symbols == slow_beam_search(model, source, 4, 4, 3, penalty)


@torch.no_grad()
def test_ends_are_said_and_the_limit_holds() -> None:
    model = opinionated(CORES["delta_net"], 4)
    for bias, symbols in ((1000.0, 0), (-1000.0, 5)):
        model.head.bias[4] = bias
        for found in (
            greedy(model, *prompts(SOURCES, 4), boundary=4, limit=5),
            beam_search(model, *prompts(SOURCES, 4), boundary=4, limit=5, beams=2),
        ):
            assert {len(one.symbols) for one in found} == {symbols}
            assert {one.ended for one in found} == {bias > 0}


@torch.no_grad()
@pytest.mark.parametrize("core", ["delta_net", "lstm"])
def test_one_beam_is_greedy(core: str) -> None:
    for seed in range(5):
        model = opinionated(CORES[core], 4, seed=seed)
        read = prompts(SOURCES, 4)
        one = beam_search(model, *read, boundary=4, limit=9, beams=1, length_penalty=0.7)
        assert one == greedy(model, *read, boundary=4, limit=9)


@torch.no_grad()
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_as_many_beams_as_there_are_translations_find_the_best_of_all(penalty: float) -> None:
    limit, boundary = 3, 2
    sources = [[0, 1], [1], [0, 0, 1, 1]]
    every = [
        list(written)
        for length in range(limit + 1)
        for written in itertools.product(range(boundary), repeat=length)
    ]
    model = opinionated(CORES["lstm"], boundary)
    found = beam_search(
        model,
        *prompts(sources, boundary),
        boundary=boundary,
        limit=limit,
        beams=len(every) + 1,
        length_penalty=penalty,
    )
    for source, one in zip(sources, found, strict=True):
        values = [value(model, source, written, penalty) for written in every]
        assert one.symbols == every[int(np.argmax(values))]


def value(model: SequenceModel, source: list[int], written: list[int], penalty: float) -> float:
    """What a beam search looks for the largest of."""
    batch = Pairs.of([source], [written], model.embedding.num_embeddings - 1).batch(np.array([0]))
    logits, _ = model(batch.input, model.initial_state(1), batch.reset)
    log_p = logits.log_softmax(-1).gather(-1, batch.target[..., None]).squeeze(-1)
    return float(log_p[batch.mask].sum()) / (len(written) + 1) ** penalty
