"""A core between an embedding of words and a softmax over them, adaptive where they are many.

    y = LayerNorm(core(√D · embedding(word)));   log p = softmax(y)

The adaptive softmax is Grave et al., "Efficient softmax approximation for GPUs" (2017), torch's
own: frequent words and clusters of rarer ones in one softmax, each cluster's words in another, over
y projected to D / divisor^i. Words enter as Baevski & Auli, "Adaptive Input Representations for
Neural Language Modeling" (2018), have them: a table for each cluster, projected back to D. Tied,
tables and projections are the softmax's own.

The code of "Linear Transformers Are Secretly Fast Weight Programmers" (2021) has the divisor 1 and
ties them. There a cluster of divisor 1 has no projection, and a bias; torch's has a projection, and
no bias.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwp_rl.config import ConfigError
from fwp_rl.cores import CoreConfig, build_core
from fwp_rl.cores.dropout import Dropout
from fwp_rl.types import State

__all__ = ["LanguageModel", "Softmax", "embed"]

SIZE_WITHOUT_CORE: Final = 128

Tables: TypeAlias = Sequence[tuple[Tensor, Tensor | None]]
"""For each cluster of words, in their order, vectors [n, h] and what makes them [n, D]: [h, D], or
None where h is D."""


class LanguageModel(nn.Module):
    """Words [T, B] to features of what comes next [T, B, D]; ``softmax`` has their losses."""

    def __init__(
        self,
        core: CoreConfig,
        *,
        words: int,
        embedding_size: int | None,
        cutoffs: Sequence[int],
        divisor: int,
        tied: bool,
        dropout: float = 0.0,
    ) -> None:
        """
        words           their number
        embedding_size  of their vectors; none: that of the core's output, as tied ones must have
                        it, or 128 where a core's output is as large as its input
        cutoffs         the first word of each cluster of the adaptive softmax; those beyond the
                        last word are left out, and none of them means a plain softmax
        divisor         of the size of the vectors, from each cluster to the next
        tied            words are read and predicted by the same vectors
        dropout         of the vectors that are read, and of the features
        """
        super().__init__()
        with torch.device("meta"):  # to know the size of a core's output, and no more
            output_size = build_core(core, embedding_size or SIZE_WITHOUT_CORE).output_size
        size = embedding_size or output_size
        if tied and size != output_size:
            raise ConfigError(
                f"embedding_size: got {size} with tied vectors and a core whose output has size "
                f"{output_size}, expected none, or tied false"
            )
        cutoffs = [cutoff for cutoff in cutoffs if cutoff < words]
        self.core = build_core(core, size)
        self.norm = nn.LayerNorm(output_size)
        self.dropout = Dropout(dropout)
        self.softmax = Softmax(output_size, words, cutoffs=cutoffs, divisor=divisor)
        self.embedding = None if tied else Embedding(size, words, cutoffs=cutoffs, divisor=divisor)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        """The core's state at the start of a text."""
        return self.core.initial_state(batch_size, device or self.norm.weight.device)

    def forward(self, words: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        """Features [T, B, D] after each word [T, B], and the core's state after the last."""
        x = embed(words, (self.embedding or self.softmax).tables())
        y, state = self.core(self.dropout(x), state, reset)
        return self.dropout(self.norm(y)), state


class Softmax(nn.Module):
    """Log-probabilities of words: plain, or adaptive where there are cutoffs."""

    adaptive: nn.AdaptiveLogSoftmaxWithLoss | None
    plain: nn.Linear | None

    def __init__(self, size: int, words: int, *, cutoffs: Sequence[int], divisor: int) -> None:
        super().__init__()
        self.words = words
        self.plain = self.adaptive = None
        if not cutoffs:
            self.plain = nn.Linear(size, words)
            _draw_vectors(self.plain.weight)
            return
        _check_divisor(divisor, size, len(cutoffs))
        self.adaptive = nn.AdaptiveLogSoftmaxWithLoss(
            size, words, list(cutoffs), div_value=divisor, head_bias=True
        )
        _draw_vectors(self.adaptive.head.weight)
        for projection, vectors in _clusters(self.adaptive):
            nn.init.normal_(projection.weight, std=size**-0.5)
            _draw_vectors(vectors.weight)

    def losses(self, y: Tensor, target: Tensor) -> Tensor:
        """−log p of the targets [N] for features [N, D], in nats: [N]."""
        if self.plain is not None:
            return F.cross_entropy(self.plain(y), target, reduction="none")
        assert self.adaptive is not None
        if not len(y):
            return y.sum(-1)
        output: Tensor = self.adaptive(y, target).output
        return -output

    def log_prob(self, y: Tensor) -> Tensor:
        """log p of all words, [N, words], for features [N, D]."""
        if self.plain is not None:
            return F.log_softmax(self.plain(y), dim=-1)
        assert self.adaptive is not None
        return self.adaptive.log_prob(y)

    def tables(self) -> Tables:
        """The vectors of the words, to read them by."""
        if self.plain is not None:
            return [(self.plain.weight, None)]
        assert self.adaptive is not None
        head = self.adaptive.head.weight[: self.adaptive.shortlist_size]
        clusters = _clusters(self.adaptive)
        return [(head, None), *((vectors.weight, p.weight) for p, vectors in clusters)]


class Embedding(nn.Module):
    """Vectors of the words, apart from the softmax's."""

    def __init__(self, size: int, words: int, *, cutoffs: Sequence[int], divisor: int) -> None:
        super().__init__()
        _check_divisor(divisor, size, len(cutoffs))
        edges = [0, *cutoffs, words]
        sizes = [size // divisor**n for n in range(len(edges) - 1)]
        counts = [stop - start for start, stop in pairwise(edges)]
        self.vectors = nn.ParameterList(
            torch.empty(count, h) for count, h in zip(counts, sizes, strict=True)
        )
        self.projections = nn.ParameterList(torch.empty(h, size) for h in sizes[1:])
        for vectors in self.vectors:
            _draw_vectors(vectors)
        for projection in self.projections:
            nn.init.normal_(projection, std=size**-0.5)

    def tables(self) -> Tables:
        return list(zip(self.vectors, [None, *self.projections], strict=True))


def _clusters(softmax: nn.AdaptiveLogSoftmaxWithLoss) -> list[list[nn.Linear]]:
    """The projection and the vectors of each cluster."""
    return [cast("list[nn.Linear]", list(cluster.children())) for cluster in softmax.tail]


def embed(words: Tensor, tables: Tables) -> Tensor:
    """The vectors of words [...], times √D: [..., D]. Every word is looked up in every table, and
    one result kept: a choice of words would wait for a GPU."""
    (head, _), *_ = tables
    size = head.shape[1]
    if len(tables) == 1:
        return F.embedding(words, head) * math.sqrt(size)
    x = torch.zeros((), device=head.device, dtype=head.dtype)
    start = 0
    for vectors, projection in tables:
        place = words - start
        inside = (place >= 0) & (place < len(vectors))
        found = F.embedding(place.clamp(0, len(vectors) - 1), vectors)
        if projection is not None:
            found = found @ projection
        x = torch.where(inside[..., None], found, x)
        start += len(vectors)
    return x * math.sqrt(size)


def _draw_vectors(weight: Tensor) -> None:
    """Of length 1, more or less: read times √D they have size 1, and so have logits."""
    nn.init.normal_(weight, std=weight.shape[1] ** -0.5)


def _check_divisor(divisor: int, size: int, clusters: int) -> None:
    if size // divisor**clusters < 1:
        raise ConfigError(
            f"projection_divisor: got {divisor}, which leaves nothing of vectors of size {size} "
            f"in cluster {clusters}; expected a smaller one, or fewer cutoffs"
        )
