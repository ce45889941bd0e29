"""Embedding and softmax of words: adaptive or plain, tied or not."""

import pytest
import torch
from torch.nn.functional import one_hot

from fwp_rl.config import ConfigError
from fwp_rl.cores import CoreConfig
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.cores.rnn import LSTMConfig
from fwp_rl.tasks.language_model import Embedding, LanguageModel, Softmax, embed

WORDS, SIZE = 50, 16

KINDS = pytest.mark.parametrize(
    ("cutoffs", "divisor"), [((), 1), ((10,), 1), ((5, 20), 2), ((5, 20, 49), 2)]
)


@KINDS
def test_a_softmax_sums_to_one_and_has_the_losses_of_it(
    cutoffs: tuple[int, ...], divisor: int
) -> None:
    torch.manual_seed(0)
    softmax = Softmax(SIZE, WORDS, cutoffs=cutoffs, divisor=divisor)
    y, target = torch.randn(200, SIZE), torch.randint(WORDS, (200,))
    log_prob = softmax.log_prob(y)
    torch.testing.assert_close(log_prob.exp().sum(-1), torch.ones(200))
    torch.testing.assert_close(
        softmax.losses(y, target), -log_prob.gather(1, target[:, None])[:, 0]
    )
    assert softmax.losses(y[:0], target[:0]).shape == (0,)


@KINDS
@pytest.mark.parametrize("kind", [Softmax, Embedding])
def test_words_are_looked_up_in_the_table_of_their_cluster(
    cutoffs: tuple[int, ...], divisor: int, kind: type[Softmax] | type[Embedding]
) -> None:
    torch.manual_seed(0)
    tables = kind(SIZE, WORDS, cutoffs=cutoffs, divisor=divisor).tables()
    words = torch.randint(WORDS, (7, 30))
    whole = torch.cat([rows if p is None else rows @ p for rows, p in tables])
    assert whole.shape == (WORDS, SIZE)
    expected = one_hot(words, WORDS).float() @ whole * SIZE**0.5
    torch.testing.assert_close(embed(words, tables), expected)
    assert 0.5 < embed(words, tables).std() < 1.5


@pytest.mark.parametrize("tied", [True, False])
def test_tied_words_are_read_and_predicted_by_the_same_weights(tied: bool) -> None:
    model = LanguageModel(
        DeltaNetConfig(layers=1, hidden_size=SIZE, heads=2, feedforward_size=8),
        **{"words": WORDS, "embedding_size": None, "cutoffs": (10, 30), "divisor": 2, "tied": tied},  # type: ignore[arg-type]
    )
    assert (model.embedding is None) == tied
    before = embed(torch.arange(WORDS), (model.embedding or model.softmax).tables()).detach()
    with torch.no_grad():
        for parameter in model.softmax.parameters():
            parameter.mul_(2)
    after = embed(torch.arange(WORDS), (model.embedding or model.softmax).tables())
    assert (after != before).any(-1).all() == tied
    assert torch.equal(after, before) == (not tied)


def test_dropout_is_of_learning_alone() -> None:
    torch.manual_seed(0)
    model = LanguageModel(
        FeedforwardConfig(),
        words=WORDS,
        embedding_size=None,
        cutoffs=(),
        divisor=1,
        tied=True,
        dropout=0.5,
    )
    words, reset = torch.zeros(20, 10, dtype=torch.int64), torch.zeros(20, 10, dtype=torch.bool)
    learning, _ = model(words, (), reset)
    assert 0.4 < float((learning == 0).float().mean()) < 0.6
    y, _ = model.eval()(words, (), reset)
    assert (y != 0).all()
    torch.testing.assert_close(y, y[:1, :1].expand_as(y), msg="the same word each time")


def test_the_small_setting_has_the_papers_number_of_weights() -> None:
    with torch.device("meta"):
        model = LanguageModel(
            DeltaNetConfig(layers=16, hidden_size=128, heads=8, feedforward_size=2048),
            words=267_735,
            embedding_size=None,
            cutoffs=(20_000, 40_000, 200_000),
            divisor=1,
            tied=True,
        )
    total = sum(parameter.numel() for parameter in model.parameters())
    assert 40e6 < total < 46e6, "40M in the paper, about"


@pytest.mark.parametrize(
    ("core", "given", "expected"),
    [
        (LSTMConfig(hidden_size=24), None, 24),
        (FeedforwardConfig(), None, 128),
        (FeedforwardConfig(), 24, 24),
    ],
)
def test_words_are_as_large_as_the_cores_output(
    core: CoreConfig, given: int | None, expected: int
) -> None:
    model = LanguageModel(core, words=WORDS, embedding_size=given, cutoffs=(), divisor=1, tied=True)
    reset = torch.zeros(3, 2, dtype=torch.bool)
    y, _ = model(torch.zeros(3, 2, dtype=torch.int64), model.initial_state(2), reset)
    assert y.shape == (3, 2, expected)


def test_tied_words_need_the_size_of_the_cores_output() -> None:
    with pytest.raises(ConfigError, match=r"^embedding_size: got 8 with tied .* size 16"):
        LanguageModel(
            LSTMConfig(hidden_size=16),
            words=WORDS,
            embedding_size=8,
            cutoffs=(),
            divisor=1,
            tied=True,
        )


@pytest.mark.parametrize("kind", [Softmax, Embedding])
def test_a_divisor_that_leaves_nothing_is_refused(kind: type[Softmax] | type[Embedding]) -> None:
    with pytest.raises(ConfigError, match=r"^projection_divisor: got 5, .* size 16 in cluster 2"):
        kind(SIZE, WORDS, cutoffs=(10, 20), divisor=5)
