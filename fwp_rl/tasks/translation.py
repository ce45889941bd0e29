"""Translation by a causal core: source and translation as one sequence (``parallel.py``).

P1, "Linear Transformers Are Secretly Fast Weight Programmers" (Schlag et al. 2021), translates with
an encoder and a decoder that attends to it. Here one core reads the source, and all that it can use
of it while it translates is its state: what is measured is what a state holds of a sentence.

    loss   cross-entropy of the translation's tokens and of its end, given those before
    score  BLEU of whole translations, decoded from the state (``decoding.py``), by sacreBLEU

The data are parallel files, or numbers in words of two languages (``number_words.py``).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray

from fwp_rl.config import ConfigError, Range
from fwp_rl.registry import shown
from fwp_rl.tasks.base import TASKS, SymbolTaskConfig
from fwp_rl.tasks.number_words import IN_WORDS, LARGEST, Language
from fwp_rl.tasks.parallel import (
    Bytes,
    Pieces,
    TextPairs,
    Tokens,
    read_pairs,
    sha256,
    train_pieces,
)
from fwp_rl.tasks.translation_task import FACTS, TOKENIZER, Part, TranslationTask

__all__ = ["TranslationConfig"]

SPLIT_SEED: Final = 1909
"""Which numbers are in which split: the same for all seeds, so that all runs have one test."""


@TASKS.register("translation")
@dataclass(frozen=True, kw_only=True)
class TranslationConfig(SymbolTaskConfig):
    """Translate sentences of parallel files, or numbers in words."""

    data: Literal["files", "synthetic"] = "files"
    """Pairs of lines of two files, or numbers in words of two languages."""
    train_source: str | None = None
    """Path of the sentences to learn to translate, one in each line."""
    train_target: str | None = None
    """Path of their translations, as many lines."""
    validation_source: str | None = None
    """Path of the sentences that choose the best weights."""
    validation_target: str | None = None
    """Path of their translations."""
    test_source: str | None = None
    """Path of the sentences that are measured at the end."""
    test_target: str | None = None
    """Path of their translations."""
    source_language: Language = "german"
    """Of synthetic pairs."""
    target_language: Literal["english", "spanish"] = "english"
    """Of synthetic pairs. German is none of them: it writes a number as one word, and BLEU counts
    four in a row."""
    largest_number: Annotated[int, Range(99, LARGEST)] = LARGEST
    """Synthetic numbers are drawn from 0 to this, each for one split and once."""
    train_size: Annotated[int, Range(1)] = 20_000
    """Synthetic pairs to learn from."""
    validation_size: Annotated[int, Range(1)] = 500
    """Synthetic pairs of the validation split."""
    test_size: Annotated[int, Range(1)] = 1000
    """Synthetic pairs of the test split."""
    tokens: Literal["sentencepiece", "bytes"] = "sentencepiece"
    """Symbols: pieces of words, learned from both sides of the training pairs and kept with the
    run, or the bytes of UTF-8."""
    vocabulary_size: Annotated[int, Range(8, 1_000_000)] = 8000
    """Number of pieces, of both languages together; bytes have no such number."""
    longest: Annotated[int, Range(1, 100_000)] = 256
    """Tokens. Training pairs of which a side is longer are left out, and counted. Validation and
    test keep all; a translation is cut after so many tokens."""
    validation_sentences: Annotated[int, Range(1)] = 500
    """Of validation, at most so many are translated, evenly spaced, and greedily; its loss and its
    accuracy are of all."""
    beams: Annotated[int, Range(1, 64)] = 1
    """Translations that are pursued side by side in the test; 1: greedily."""
    length_penalty: Annotated[float, Range(0, 10)] = 1.0
    """Power of the length by which a beam's log-probability is divided: the larger, the longer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data == "files":
            return
        for field in fields(self):
            if field.name.endswith(("_source", "_target")) and getattr(self, field.name):
                raise ConfigError(
                    f"{field.name}: got {shown(getattr(self, field.name))} with data synthetic, "
                    "which reads no files; expected data files"
                )
        if self.source_language == self.target_language:
            raise ConfigError(
                f"target_language: got {self.target_language}, expected another one than "
                "source_language"
            )
        wanted = self.train_size + self.validation_size + self.test_size
        if wanted > self.largest_number + 1:
            raise ConfigError(
                f"train_size: got {self.train_size:,}, with validation and test {wanted:,} pairs; "
                f"expected at most {self.largest_number + 1:,}, as there are numbers"
            )

    def title(self) -> str:
        name = super().title()
        if self.data == "synthetic":
            name += f" {self.source_language}-{self.target_language} numbers"
        elif self.train_source and self.train_target:
            name += f" {Path(self.train_source).name} {Path(self.train_target).name}"
        return name + ", bytes" * (self.tokens == "bytes")

    def score_bounds(self) -> tuple[float, float]:
        return 0.0, 100.0

    def open(self, seed: int, artifacts: Mapping[str, bytes] | None = None) -> "TranslationTask":
        _require("sacrebleu", *["sentencepiece"] * (self.tokens == "sentencepiece"))
        texts = self._numbers() if self.data == "synthetic" else self._files()
        if artifacts is not None:
            _check_same(texts, artifacts)
        return TranslationTask(seed, self, texts, self._tokens(texts["train"], artifacts))

    def _numbers(self) -> dict[Part, TextPairs]:
        order = np.random.default_rng(SPLIT_SEED).permutation(self.largest_number + 1)
        # test first: it is the same whatever there is to learn from
        sizes = self.test_size, self.validation_size, self.train_size
        test, validation, train, _ = np.split(order, np.cumsum(sizes))
        source, target = IN_WORDS[self.source_language], IN_WORDS[self.target_language]

        def pairs(numbers: NDArray[np.int64]) -> TextPairs:
            return [(source(number), target(number)) for number in numbers.tolist()]

        return {"train": pairs(train), "validation": pairs(validation), "test": pairs(test)}

    def _files(self) -> dict[Part, TextPairs]:
        parts: tuple[Part, ...] = ("train", "validation", "test")
        names = {part: (f"{part}_source", f"{part}_target") for part in parts}
        paths = {part: [self._path(field) for field in names[part]] for part in parts}
        return {
            part: read_pairs(*paths[part], fields=names[part], drop=part == "train")
            for part in parts
        }

    def _path(self, field: str) -> Path:
        given = getattr(self, field)
        if not given:
            flag = field.replace("_", "-")
            raise ConfigError(
                f"{field}: no file is given, expected the path of a text with a sentence in each "
                f"line: --task.{flag} PATH"
            )
        return Path(given).expanduser()

    def _tokens(self, train: TextPairs, artifacts: Mapping[str, bytes] | None) -> Tokens:
        if self.tokens == "bytes":
            return Bytes()
        if artifacts is None:
            texts = [text for pair in train for text in pair]
            return Pieces(train_pieces(texts, self.vocabulary_size), source=TOKENIZER)
        return Pieces(_kept(artifacts, TOKENIZER), source=TOKENIZER)


def _require(*packages: str) -> None:
    for name in packages:
        try:
            import_module(name)
        except ImportError:
            raise ConfigError(
                f"task: translation needs {name}, which is not installed: "
                "pip install 'fwp-rl[tasks]'"
            ) from None


def _kept(artifacts: Mapping[str, bytes], name: str) -> bytes:
    if name not in artifacts:
        raise ConfigError(f"{name}: is missing from the run, expected what it began with")
    return artifacts[name]


def _check_same(texts: Mapping[Part, TextPairs], artifacts: Mapping[str, bytes]) -> None:
    """ConfigError unless the pairs are those that a run began with."""
    kept = _kept(artifacts, FACTS)
    try:
        before = json.loads(kept)
        hashes = {part: before[part]["sha256"] for part in texts}
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{FACTS}: does not describe the pairs of a translation") from None
    for part, pairs in texts.items():
        if sha256(pairs) != hashes[part]:
            raise ConfigError(
                f"{part}_source, {part}_target: are not the texts that the run began with, "
                "expected the same files"
            )
