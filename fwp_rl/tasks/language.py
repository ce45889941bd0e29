"""Language modelling: each next word, or byte, of text files.

As in "Linear Transformers Are Secretly Fast Weight Programmers" (Schlag et al. 2021) and "Going
Beyond Linear Transformers with Recurrent Fast Weight Programmers" (Irie et al. 2021) on
WikiText-103. A batch is a segment of B streams of the training text (``streams.py``); from one to
the next the core's state is carried over, "full context", or begins anew, "limited context".

Files are given by their paths; nothing is downloaded. The vocabulary is the training text's, and a
run keeps it (``Task.artifacts``).
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fwp_rl.config import ConfigError, Range
from fwp_rl.cores import CoreConfig
from fwp_rl.losses import StepLosses
from fwp_rl.tasks.base import TASKS, Split, Task, TaskBatch, TaskConfig
from fwp_rl.tasks.language_model import LanguageModel
from fwp_rl.tasks.streams import Streams, windows
from fwp_rl.tasks.text import UNKNOWN, Text, Vocabulary, count_words, encode_words, map_bytes
from fwp_rl.types import State

__all__ = ["LanguageConfig", "LanguageTask"]

FILES: Final = ("train", "validation", "test")

VOCABULARY: Final = "vocabulary.txt"
TEXTS: Final = "texts.json"

STEPS_AT_ONCE: Final = 1 << 14
"""Of an evaluation's windows."""
NUMBERS_AT_ONCE: Final = 1 << 24
"""Of a plain softmax: 64 MiB."""


@TASKS.register("language")
@dataclass(frozen=True, kw_only=True)
class LanguageConfig(TaskConfig):
    """Predict each next word, or byte, of text files."""

    train: str | None = None
    """Path of the training text, such as WikiText-103's wiki.train.tokens."""
    validation: str | None = None
    """Path of the text that chooses the best weights."""
    test: str | None = None
    """Path of the text that is measured at the end."""
    level: Literal["word", "byte"] = "word"
    """Tokens: words between whitespace, with <eos> for each end of a line; or the file's bytes."""
    min_count: Annotated[int, Range(1)] = 3
    """Words that are seen less often in the training text are read as <unk>. 1 for WikiText-103,
    where that has been done."""
    vocabulary_size: Annotated[int | None, Range(3)] = None
    """Keep only so many words, the most frequent, <eos> and <unk> among them; none: all."""
    segment_length: Annotated[int, Range(1, 1_000_000)] = 256
    """Tokens of each stream in a batch, through which gradients flow."""
    context: Literal["carried", "document", "segment"] = "carried"
    """What the core remembers: all of its stream before, its document alone, or its segment alone.
    A document begins at a line " = Title = ", as WikiText's do."""
    evaluation: Literal["carried", "window"] | None = None
    """Read a text as a whole, with the state carried over, or in windows of segment_length; none:
    window where the context is a segment, else carried."""
    evaluation_streams: Annotated[int, Range(1, 65536)] = 1
    """With the state carried over, cut the text into so many streams, which is faster; each begins
    without context."""
    validation_stride: Annotated[int | None, Range(1)] = None
    """Tokens from a window to the next, each of which asks for so many, in validations; none:
    segment_length."""
    test_stride: Annotated[int | None, Range(1)] = None
    """The same in the test. 1 is the papers'."""
    embedding_size: Annotated[int | None, Range(1, 65536)] = None
    """Size of the words' vectors, the core's input; none: that of the core's output."""
    cutoffs: tuple[Annotated[int, Range(1)], ...] = (20_000, 40_000, 200_000)
    """The words, by frequency, at which the clusters of an adaptive softmax begin; those beyond the
    vocabulary are left out. None left is a plain softmax."""
    projection_divisor: Annotated[int, Range(1, 64)] = 1
    """Of the size of the words' vectors, from one cluster to the next."""
    tied: bool = True
    """Read and predict words by the same vectors."""
    dropout: Annotated[float, Range(0, 0.99)] = 0.0
    """Share of the numbers that are set to 0 in learning, of the words' vectors and of what the
    softmax reads; the core has its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.cutoffs) != sorted(set(self.cutoffs)):
            raise ConfigError(
                f"cutoffs: got {list(self.cutoffs)}, expected whole numbers that rise"
            )
        for name in ("validation_stride", "test_stride"):
            stride = getattr(self, name)
            if stride is not None and stride > self.segment_length:
                raise ConfigError(
                    f"{name}: got {stride}, which leaves out tokens, expected at most "
                    f"segment_length, {self.segment_length}"
                )

    def title(self) -> str:
        name = super().title()
        if self.train is not None:
            name += f" {Path(self.train).name}"
        return name + ", bytes" * (self.level == "byte") + f", {self.context}" * self._limited

    @property
    def _limited(self) -> bool:
        return self.context != "carried"

    def open(self, seed: int, artifacts: Mapping[str, bytes] | None = None) -> "LanguageTask":
        artifacts = artifacts or {}
        paths = [self._path(name) for name in FILES]
        vocabulary = None
        if self.level == "word":
            vocabulary = self._vocabulary(paths[0], artifacts)
        texts = {}
        for name, path in zip(FILES, paths, strict=True):
            texts[name] = (
                map_bytes(path, field=name)
                if vocabulary is None
                else encode_words(path, vocabulary, field=name)
            )
            if len(texts[name]) < self.segment_length:
                raise ConfigError(
                    f"{name}: {path}: has {len(texts[name]):,} tokens, expected at least one "
                    f"segment, {self.segment_length:,}"
                )
        if TEXTS in artifacts:
            _check_same(texts, artifacts[TEXTS])
        kind = ByteTask if vocabulary is None else LanguageTask
        return kind(self, seed, texts, vocabulary)

    def _path(self, field: str) -> Path:
        given = getattr(self, field)
        if given is None:
            raise ConfigError(
                f"{field}: no text is given, expected the path of a file: --task.{field} PATH"
            )
        path = Path(given).expanduser()
        if not path.is_file():
            there = "is no file" if path.exists() else "there is no such file"
            raise ConfigError(f"{field}: {path}: {there}, expected a text file")
        return path

    def _vocabulary(self, path: Path, artifacts: Mapping[str, bytes]) -> Vocabulary:
        if VOCABULARY in artifacts:
            return Vocabulary.load(artifacts[VOCABULARY], source=VOCABULARY)
        counts = count_words(path, field="train")
        return Vocabulary.of(counts, size=self.vocabulary_size, min_count=self.min_count)


class LanguageTask(Task):
    """Texts of words, measured by perplexity."""

    measure = "perplexity"
    higher_is_better = False

    def __init__(
        self,
        config: LanguageConfig,
        seed: int,
        texts: Mapping[str, Text],
        vocabulary: Vocabulary | None,
    ) -> None:
        super().__init__(seed)
        self.config = config
        self.carries_state = config.context != "segment"
        self.texts = texts
        self.vocabulary = vocabulary
        self._streams: dict[int, Streams] = {}
        self._check_unknown()

    @property
    def tokens(self) -> int:
        """Number of different tokens."""
        return 256 if self.vocabulary is None else len(self.vocabulary)

    def artifacts(self) -> dict[str, bytes]:
        facts = {
            name: {"bytes": text.size, "sha256": text.sha256, "tokens": len(text)}
            for name, text in self.texts.items()
        }
        kept = {TEXTS: (json.dumps(facts, indent=2) + "\n").encode()}
        return kept if self.vocabulary is None else kept | {VOCABULARY: self.vocabulary.dump()}

    def model(self, core: CoreConfig) -> LanguageModel:
        config = self.config
        return LanguageModel(
            core,
            words=self.tokens,
            embedding_size=config.embedding_size,
            cutoffs=config.cutoffs,
            divisor=config.projection_divisor,
            tied=config.tied,
            dropout=config.dropout,
        )

    def batch(self, step: int, size: int) -> TaskBatch:
        """The next segment of each stream; after the last, all begin again."""
        if size not in self._streams:
            self._streams = {size: self._cut(size)}
        streams = self._streams[size]
        return streams.segment(step % streams.segments)

    def loss(self, model: nn.Module, batch: TaskBatch, state: State) -> tuple[StepLosses, State]:
        assert isinstance(model, LanguageModel)
        y, state = model(batch.input, state, batch.reset)
        losses = model.softmax.losses(y.flatten(0, 1), batch.target.flatten())
        losses = losses.unflatten(0, batch.target.shape)
        return StepLosses(loss=losses, mask=batch.mask), state

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """``loss``, nats of a token, and what ``_metrics`` make of it."""
        text = self.texts[split]
        parts = list(self._losses(model, text, split))
        assert sum(map(len, parts)) == len(text)
        nats = float(torch.cat(parts).double().sum())
        return {"loss": nats / len(text), **self._metrics(nats, text)}

    def _metrics(self, nats: float, text: Text) -> dict[str, float]:
        loss = nats / len(text)
        return {
            "perplexity": math.exp(loss) if loss < 700 else math.inf,
            "unknown_share": self._unknown(text) / len(text),
        }

    def _losses(self, model: nn.Module, text: Text, split: Split) -> Iterator[Tensor]:
        """Of each token of a text, once, some at a time: [N]."""
        assert isinstance(model, LanguageModel)
        device = model.norm.weight.device
        state: State | None = None
        for batch in self._batches(text, split):
            batch = batch.map(lambda x: x.to(device))
            if state is None or not self._carried:
                state = model.initial_state(batch.reset.shape[1], device)
            y, state = model(batch.input, state, batch.reset)
            y, target = y[batch.mask], batch.target[batch.mask]
            rows = max(1, NUMBERS_AT_ONCE // self.tokens)
            for part, wanted in zip(y.split(rows), target.split(rows), strict=True):
                yield model.softmax.losses(part, wanted)

    @property
    def _carried(self) -> bool:
        config = self.config
        if config.evaluation is None:
            return config.context != "segment"
        return config.evaluation == "carried"

    def _batches(self, text: Text, split: Split) -> Iterator[TaskBatch]:
        config = self.config
        length, documents = config.segment_length, config.context == "document"
        if self._carried:
            size = min(config.evaluation_streams, len(text))
            streams = Streams(text, size, length, documents=documents)
            yield from map(streams.segment, range(streams.segments))
            return
        stride = config.validation_stride if split == "validation" else config.test_stride
        yield from windows(
            text,
            length=length,
            stride=stride or length,
            at_once=max(1, STEPS_AT_ONCE // length),
            documents=documents,
        )

    def _cut(self, size: int) -> Streams:
        text, config = self.texts["train"], self.config
        streams = Streams(text, size, config.segment_length, documents=config.context == "document")
        if streams.length < config.segment_length:
            raise ConfigError(
                f"batch_size: got {size}, which cuts the {len(text):,} tokens of {text.path} into "
                f"streams of {streams.length:,}, expected at least segment_length, "
                f"{config.segment_length:,}"
            )
        return streams

    def _check_unknown(self) -> None:
        """A word that training never sees gets no probability to speak of."""
        if self.vocabulary is None or self._unknown(self.texts["train"]):
            return
        for name in FILES[1:]:
            text = self.texts[name]
            if unknown := self._unknown(text):
                raise ConfigError(
                    f"min_count: got {self.config.min_count}, by which the training text has no "
                    f"{UNKNOWN}, but {text.path} has {unknown:,} words that are not in it; "
                    "expected a larger one"
                )

    def _unknown(self, text: Text) -> int:
        """How many tokens are ``<unk>``."""
        if self.vocabulary is None:
            return 0
        token = self.vocabulary.words.index(UNKNOWN)
        part = 1 << 20
        return sum(
            int(np.count_nonzero(text.tokens[start : start + part] == token))
            for start in range(0, len(text), part)
        )


class ByteTask(LanguageTask):
    """Texts of bytes, measured by bits."""

    measure = "bits_per_byte"

    def loss(self, model: nn.Module, batch: TaskBatch, state: State) -> tuple[StepLosses, State]:
        losses, state = super().loss(model, batch, state)
        losses.means = {"task/bits_per_byte": losses.loss.detach() / math.log(2)}
        return losses, state

    def _metrics(self, nats: float, text: Text) -> dict[str, float]:
        bits = nats / math.log(2)
        return {
            "bits_per_byte": bits / len(text),
            "bits_per_character": bits / max(text.characters, 1),
        }


def _check_same(texts: Mapping[str, Text], kept: bytes) -> None:
    """ConfigError unless the texts are those that a run began with."""
    try:
        before: Mapping[str, Any] = json.loads(kept)
        hashes = {name: before[name]["sha256"] for name in texts}
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{TEXTS}: does not describe this task's texts") from None
    for name, text in texts.items():
        if text.sha256 != hashes[name]:
            raise ConfigError(
                f"{name}: {text.path}: is not the file that the run began with: sha256 "
                f"{text.sha256[:12]}…, expected {str(hashes[name])[:12]}…"
            )
