"""Pairs to translate, in three splits; how translations are made and measured."""

import json
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fwp_rl.config import ConfigError
from fwp_rl.losses import StepLosses
from fwp_rl.tasks.base import Split, TaskBatch
from fwp_rl.tasks.decoding import Translation, beam_search, greedy
from fwp_rl.tasks.parallel import Pairs, TextPairs, Tokens, sha256
from fwp_rl.tasks.stored import Epochs
from fwp_rl.tasks.symbols import SequenceModel, SymbolTask
from fwp_rl.types import State

if TYPE_CHECKING:  # which opens this task
    from fwp_rl.tasks.translation import TranslationConfig

__all__ = ["FACTS", "TOKENIZER", "Part", "TranslationTask"]

Part: TypeAlias = Literal["train"] | Split

TOKENIZER: Final = "tokenizer.model"
FACTS: Final = "pairs.json"

TOGETHER: Final = 16
"""Batches that are cut together, sorted by length, so that little of them is padding."""
SENTENCES_AT_ONCE: Final = 128
"""Of an evaluation, at most; and so many steps of them all:"""
STEPS_AT_ONCE: Final = 1 << 13


class TranslationTask(SymbolTask):
    """Pairs of three splits, and how translations of them are made and measured."""

    measure = "bleu"

    def __init__(
        self,
        seed: int,
        config: "TranslationConfig",
        texts: Mapping[Part, TextPairs],
        tokens: Tokens,
    ) -> None:
        super().__init__(seed)
        self.config = config
        self.tokens = tokens
        self.embedding_size = config.embedding_size
        self.boundary = tokens.size
        self.inputs = self.outputs = tokens.size + 1
        self.texts = texts
        self.pairs = {part: self._encoded(pairs) for part, pairs in texts.items()}
        self.left_out = self._leave_out()
        self._epochs = Epochs(self.pairs["train"].length, TOGETHER, self.draws)

    def artifacts(self) -> dict[str, bytes]:
        facts: dict[str, Any] = {
            part: {"pairs": len(self.pairs[part]), "sha256": sha256(texts)}
            for part, texts in self.texts.items()
        }
        facts["left_out"] = self.left_out
        facts |= {name: str(metric.get_signature()) for name, metric in _metrics().items()}
        model = self.tokens.dump()
        kept = {FACTS: (json.dumps(facts, indent=2) + "\n").encode()}
        return kept if model is None else kept | {TOKENIZER: model}

    def batch(self, step: int, size: int) -> TaskBatch:
        """Of pairs about as long as each other; each is read once before any is read again."""
        return self.pairs["train"].batch(self._epochs.chosen(step, size))

    def batches(self, split: Split) -> Iterator[TaskBatch]:
        pairs = self.pairs[split]
        for chosen in _alike(np.arange(len(pairs)), pairs.length):
            yield pairs.batch(chosen)

    def loss(self, model: nn.Module, batch: TaskBatch, state: State) -> tuple[StepLosses, State]:
        assert isinstance(model, SequenceModel)
        y, state = model.features(batch.input, state, batch.reset)
        # logits are dear, and more than half of the steps ask nothing
        logits, target = model.head(y[batch.mask]), batch.target[batch.mask]
        loss = cross_entropy(logits, target, reduction="none")
        with torch.no_grad():
            right = (logits.argmax(-1) == target).to(loss.dtype)

        def placed(x: Tensor) -> Tensor:
            return x.new_zeros(batch.mask.shape).masked_scatter(batch.mask, x)

        means = {"task/accuracy": placed(right)}
        return StepLosses(loss=placed(loss), mask=batch.mask, means=means), state

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """``bleu``, ``chrf`` (0 to 100), ``exact_match``, the share of translations that equal the
        reference, and ``unfinished``, the share that was cut; ``loss``, nats of a token, and
        ``accuracy`` of tokens, given the reference's tokens before."""
        size = len(self.pairs[split])
        chosen = np.arange(size)
        if split == "validation":
            count = min(size, self.config.validation_sentences)
            chosen = np.linspace(0, size - 1, count).astype(np.int64)
        found = self.translations(model, split, chosen)
        written = [_plain(self.tokens.decode(one.symbols)) for one in found]
        wanted = [_plain(self.texts[split][number][1]) for number in chosen.tolist()]
        same = [a == b for a, b in zip(written, wanted, strict=True)]
        return {
            **{
                name: float(metric.corpus_score(written, [wanted]).score)
                for name, metric in _metrics().items()
            },
            "exact_match": sum(same) / len(same),
            "unfinished": sum(not one.ended for one in found) / len(found),
            **self._given_the_reference(model, split),
        }

    def translations(
        self, model: nn.Module, split: Split, chosen: NDArray[np.int64]
    ) -> list[Translation]:
        """Of the pairs of these numbers, in their order."""
        assert isinstance(model, SequenceModel)
        config, pairs, device = self.config, self.pairs[split], model.head.weight.device
        beams = config.beams if split == "test" else 1
        found: dict[int, Translation] = {}
        for some in _alike(chosen, pairs.source * beams):
            prompts, reset = (x.to(device) for x in pairs.prompts(some))
            if beams == 1:
                ones = greedy(model, prompts, reset, boundary=self.boundary, limit=config.longest)
            else:
                ones = beam_search(
                    model,
                    prompts,
                    reset,
                    boundary=self.boundary,
                    limit=config.longest,
                    beams=beams,
                    length_penalty=config.length_penalty,
                )
            found |= zip(some.tolist(), ones, strict=True)
        return [found[number] for number in chosen.tolist()]

    def _given_the_reference(self, model: nn.Module, split: Split) -> dict[str, float]:
        device = next(model.parameters()).device
        total = right = asked = 0.0
        for batch in self.batches(split):
            batch = batch.map(lambda x: x.to(device))
            state = model.initial_state(batch.reset.shape[1], device)  # type: ignore[operator]
            losses, _ = self.loss(model, batch, state)
            total += float(losses.loss.double().sum())
            right += float(losses.means["task/accuracy"].sum())
            asked += int(batch.mask.sum())
        return {"loss": total / asked, "accuracy": right / asked}

    def _encoded(self, texts: TextPairs) -> Pairs:
        sources, targets = zip(*texts, strict=True)
        return Pairs.of(self.tokens.encode(sources), self.tokens.encode(targets), self.boundary)

    def _leave_out(self) -> int:
        """Training pairs that are too long; how many they were."""
        pairs, longest = self.pairs["train"], self.config.longest
        fits = np.maximum(pairs.source, pairs.length - pairs.source - 1) <= longest
        if not fits.any():
            raise ConfigError(
                f"longest: got {longest}, expected more: every training pair has a side of more "
                "tokens"
            )
        left_out = len(pairs) - int(fits.sum())
        if left_out:
            self.pairs["train"] = pairs.of_these(np.flatnonzero(fits))
            warnings.warn(
                f"longest: {left_out:,} of {len(pairs):,} training pairs are left out, which have "
                f"a side of more than {longest:,} tokens",
                stacklevel=4,
            )
        return left_out


def _alike(chosen: NDArray[np.int64], length: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Those that were chosen, in groups of about the same length: the longest first."""
    left = chosen[np.argsort(-length[chosen], kind="stable")]
    while len(left):
        size = min(SENTENCES_AT_ONCE, max(1, STEPS_AT_ONCE // int(length[left[0]] + 1)))
        yield left[:size]
        left = left[size:]


def _plain(text: str) -> str:
    """With single spaces: a piece of SentencePiece knows no others."""
    return " ".join(text.split())


def _metrics() -> dict[str, Any]:
    from sacrebleu import BLEU, CHRF

    metrics: dict[str, Any] = {"bleu": BLEU(), "chrf": CHRF()}
    for metric in metrics.values():
        metric.corpus_score(["a"], [["a"]])  # until it has scored, it has no signature
    return metrics
