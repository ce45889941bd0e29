"""Pairs of texts that say the same in two languages, as sequences of symbols.

A pair is one sequence, which a causal core reads from left to right:

    read    s1 ... sn  |   t1 ... tm
    asked              t1  t2 ... |

``|`` is one symbol with two meanings: read, it says that the source is over; answered, that the
translation is. What comes before is a core's to keep; nothing attends to it again.

Two files of one line for each pair come in. Their lines end with LF or CR LF; other separators of
Unicode are part of a line.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fwp_rl.config import ConfigError
from fwp_rl.registry import named
from fwp_rl.tasks.base import TaskBatch

__all__ = [
    "Bytes",
    "Pairs",
    "Pieces",
    "TextPairs",
    "Tokens",
    "read_lines",
    "read_pairs",
    "train_pieces",
]

TextPairs: TypeAlias = "list[tuple[str, str]]"
"""Source and target of each pair."""


def read_lines(path: Path, *, field: str) -> list[str]:
    """The lines of a text file in UTF-8.

    field  the option that named the file, for errors
    ConfigError for a file that is missing, empty or no UTF-8, with the byte.
    """
    place = f"{field}: {named(str(path))}"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{place}: {error.strerror}, expected a text file") from None
    if not data.strip():
        raise ConfigError(f"{place}: is empty, expected a sentence in each line")
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        at, line = error.start, data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{place}: line {line}, byte {at}: got 0x{data[at]:02x}, which is not UTF-8; expected "
            "a text in UTF-8"
        ) from None
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def read_pairs(source: Path, target: Path, *, fields: tuple[str, str], drop: bool) -> TextPairs:
    """The pairs of two files with as many lines.

    drop  leave out pairs of which a side is blank, with a warning; else they are refused
    """
    lines = [read_lines(path, field=f) for path, f in zip((source, target), fields, strict=True)]
    if len(lines[0]) != len(lines[1]):
        raise ConfigError(
            f"{fields[1]}: {named(str(target))}: has {len(lines[1]):,} lines, expected "
            f"{len(lines[0]):,}, as {named(str(source))} has"
        )
    pairs = list(zip(*lines, strict=True))
    whole = [bool(s.strip() and t.strip()) for s, t in pairs]
    if not drop and not all(whole):
        line = whole.index(False)
        side = 1 if pairs[line][0].strip() else 0
        raise ConfigError(
            f"{fields[side]}: {named(str((source, target)[side]))}: line {line + 1} is blank, "
            "expected a sentence: every pair of this split is measured"
        )
    if not any(whole):
        raise ConfigError(
            f"{fields[0]}: {named(str(source))}: no line has words both here and in "
            f"{named(str(target))}"
        )
    if not all(whole):
        warnings.warn(
            f"{fields[0]}, {fields[1]}: {whole.count(False):,} of {len(pairs):,} pairs are left "
            "out, of which a side is blank",
            stacklevel=4,
        )
    return [pair for pair, kept in zip(pairs, whole, strict=True) if kept]


def sha256(pairs: TextPairs) -> str:
    """Of the lines, whatever files they stood in."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update("\n".join((*pair, "")).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


class Tokens(Protocol):
    """How texts become symbols 0 to ``size`` - 1, and texts again."""

    size: int

    def encode(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, symbols: Sequence[int]) -> str: ...

    def dump(self) -> bytes | None:
        """All that is needed to make it again; None where that is nothing."""


class Bytes:
    """The bytes of UTF-8. A translation that is no UTF-8 gets U+FFFD where it is not."""

    size = 256

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode("utf-8", "surrogatepass")) for text in texts]

    def decode(self, symbols: Sequence[int]) -> str:
        return bytes(symbols).decode("utf-8", "replace")

    def dump(self) -> None:
        return None


class Pieces:
    """Pieces of words by SentencePiece (Kudo and Richardson 2018), from a model's file. Characters
    that the training text lacks are one piece, which is written as U+2047."""

    def __init__(self, model: bytes, *, source: str) -> None:
        """ConfigError, naming the source, for what is no model."""
        from sentencepiece import SentencePieceProcessor

        try:
            self._processor: Any = SentencePieceProcessor(model_proto=model)
            self.size: int = self._processor.vocab_size() if model else 0
        except (RuntimeError, ValueError, OSError):
            self.size = 0
        if not self.size:
            raise ConfigError(f"{source}: is no model of SentencePiece")
        self._model = model

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        encoded: list[list[int]] = self._processor.encode(list(texts), out_type=int)
        return encoded

    def decode(self, symbols: Sequence[int]) -> str:
        text: str = self._processor.decode(list(symbols))
        return text

    def dump(self) -> bytes:
        return self._model


def train_pieces(texts: Sequence[str], size: int) -> bytes:
    """A SentencePiece model of ``size`` pieces, by byte pair encoding as P1's was, of these texts.

    Text is taken as it is but for runs of spaces, so that what is encoded can be decoded. Every
    character of the texts is a piece. ConfigError where ``size`` does not fit the texts.
    """
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            character_coverage=1.0,
            normalization_rule_name="identity",
            max_sentence_length=1 << 20,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        if most := re.search(r"a value <= (\d+)", text):
            wanted = f"at most {int(most[1]):,}: the training text has no more pieces"
        elif least := re.search(r"required_chars\. \d+ vs (\d+)", text):
            wanted = f"at least {int(least[1]):,}: the training text has as many characters"
        else:
            wanted = f"a size that fits the training text: {text[-200:]}"
        raise ConfigError(f"vocabulary_size: got {size:,}, expected {wanted}") from None
    return model.getvalue()


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """N pairs as symbols, one behind the other; ``boundary`` is the symbol after the tokens'.

    symbols  int32  source, boundary, target, boundary of each, and maybe of others
    begin    [N]  int64  where it begins
    source   [N]  int64  symbols of the source
    length   [N]  int64  steps: symbols of source and target, and one
    """

    symbols: NDArray[np.int32]
    begin: NDArray[np.int64]
    source: NDArray[np.int64]
    length: NDArray[np.int64]
    boundary: int

    def __len__(self) -> int:
        return len(self.length)

    @classmethod
    def of(
        cls, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], boundary: int
    ) -> "Pairs":
        """Of tokens 0 to ``boundary`` - 1."""
        source = np.array([len(tokens) for tokens in sources], np.int64)
        target = np.array([len(tokens) for tokens in targets], np.int64)
        symbols = np.empty(int((source + target + 2).sum()), np.int32)
        at = 0
        for pair in zip(sources, targets, strict=True):
            for tokens in pair:
                symbols[at : at + len(tokens)] = tokens
                at += len(tokens) + 1
                symbols[at - 1] = boundary
        length = source + target + 1
        begin = (length + 1).cumsum() - length - 1
        return cls(symbols=symbols, begin=begin, source=source, length=length, boundary=boundary)

    def of_these(self, chosen: NDArray[np.int64]) -> "Pairs":
        """The pairs of these numbers alone."""
        fields = ("begin", "source", "length")
        return replace(self, **{name: getattr(self, name)[chosen] for name in fields})

    def batch(self, chosen: NDArray[np.int64]) -> TaskBatch:
        """These pairs as columns, padded at the end, where nothing is asked."""
        length = self.length[chosen]
        step = np.arange(length.max())[:, None]
        inside = step < length
        place = np.where(inside, self.begin[chosen] + step, 0)
        read = np.where(inside, self.symbols[place], self.boundary)
        asked = np.where(inside, self.symbols[place + 1], self.boundary)
        return TaskBatch(
            input=torch.from_numpy(read.astype(np.int64)),
            target=torch.from_numpy(asked.astype(np.int64)),
            mask=torch.from_numpy(inside & (step >= self.source[chosen])),
            reset=torch.from_numpy(np.broadcast_to(step == 0, inside.shape).copy()),
        )

    def prompts(self, chosen: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Sources and the boundary after them, [T, B], padded at the beginning so that all end
        together, and the reset [T, B] where each begins."""
        length = self.source[chosen] + 1
        step = np.arange(length.max())[:, None] - (length.max() - length)
        place = np.where(step >= 0, self.begin[chosen] + step, 0)
        symbols = np.where(step >= 0, self.symbols[place], self.boundary)
        return torch.from_numpy(symbols.astype(np.int64)), torch.from_numpy(step == 0)
