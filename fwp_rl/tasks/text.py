"""Text files as arrays of tokens: words of a vocabulary, or bytes.

Words are what whitespace separates, and ``<eos>`` ends each line, as WikiText-103's files are read;
words that the vocabulary lacks become ``<unk>``, which such files may hold already. Documents begin
at a heading in WikiText's style, a line `` = Title = ``.

A file of any size is read in blocks. What takes memory is the vocabulary, while it is counted the
different words of the training text, and some tens of megabytes. Tokens of words, two or four bytes
each, go into a temporary file without a name (in ``TMPDIR``) that ends with the process; a text of
bytes is the file itself. Both are mapped, not loaded.
"""

import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fwp_rl.config import ConfigError
from fwp_rl.registry import shown

__all__ = ["EOS", "UNKNOWN", "Text", "Vocabulary", "count_words", "encode_words", "map_bytes"]

EOS: Final = "<eos>"
"""The end of a line, token 0: what stands before the first token of a text, too."""
UNKNOWN: Final = "<unk>"
"""A word that is not in the vocabulary, token 1."""

BLOCK: Final = 1 << 18
"""Bytes that are read at a time; no word may be longer."""

_HEADING: Final = r"^ ?= (?!= )[^\n]*[^ =\n] = ?$"
_HEADINGS: Final = re.compile(_HEADING, re.MULTILINE)
_HEADINGS_IN_BYTES: Final = re.compile(_HEADING.encode(), re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text that has been read.

    tokens     [N]  uint8, uint16 or uint32: mapped from a file
    documents  [D]  int64: positions of tokens that begin a document, ascending
    first      the token that stands before the first one, as what is read where it is predicted
    """

    path: Path
    tokens: NDArray[Any]
    documents: NDArray[np.int64]
    first: int
    characters: int
    """Of UTF-8; of bytes that are no UTF-8, those that do not continue a character."""
    size: int
    """In bytes."""
    sha256: str

    def __len__(self) -> int:
        return len(self.tokens)


class Vocabulary:
    """The words that are known, ``<eos>`` and ``<unk>`` first, then by falling frequency, equally
    frequent ones by their characters: an adaptive softmax wants them so. A word's place is its
    token."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)
        self._tokens = {word: token for token, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def of(cls, counts: Counter[str], *, size: int | None, min_count: int) -> "Vocabulary":
        """The ``size`` most frequent words, all of them if it is None, of those that were counted
        ``min_count`` times; ``<eos>`` and ``<unk>`` are among them whatever was counted."""
        known = [w for w, n in counts.items() if n >= min_count and w not in (EOS, UNKNOWN)]
        known.sort(key=lambda word: (-counts[word], word))
        return cls([EOS, UNKNOWN, *known][:size])

    def encode(self, words: Iterable[str]) -> NDArray[Any]:
        """[N] tokens, in the smallest type that holds them all."""
        tokens, unknown = self._tokens, self._tokens[UNKNOWN]
        dtype = np.uint16 if len(self) <= 1 << 16 else np.uint32
        return np.array([tokens.get(word, unknown) for word in words], dtype)

    def dump(self) -> bytes:
        """As a file: a word a line."""
        return "".join(f"{word}\n" for word in self.words).encode()

    @classmethod
    def load(cls, data: bytes, *, source: str) -> "Vocabulary":
        """What ``dump`` made. ConfigError, naming the source, for anything else."""
        try:
            words = data.decode().split("\n")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{source}: byte {error.start}: is not UTF-8") from None
        if words[:2] != [EOS, UNKNOWN] or words.pop() != "":
            raise ConfigError(
                f"{source}: is no vocabulary, expected {EOS}, {UNKNOWN} and words, one a line"
            )
        for line, word in enumerate(words):
            if word.split() != [word]:
                raise ConfigError(f"{source}: line {line + 1}: got {shown(word)}, expected a word")
        if len(set(words)) < len(words):
            raise ConfigError(f"{source}: holds a word twice")
        return cls(words)


def count_words(path: Path, *, field: str) -> Counter[str]:
    """How often each word of a file occurs, ``<eos>`` at the end of each line among them.

    field  the option that named the file, for errors
    """
    counts: Counter[str] = Counter()
    for block in _Reader(path, field):
        counts.update(_words(_decoded(block, path, field)))
    return counts


def encode_words(path: Path, vocabulary: Vocabulary, *, field: str) -> Text:
    """The words of a file as tokens. ConfigError, with the place, where it is no UTF-8."""
    reader = _Reader(path, field)
    documents: list[int] = []
    count = characters = 0
    ends_line = True
    with tempfile.TemporaryFile() as file:
        for block in reader:
            text = _decoded(block, path, field)
            characters += len(text)
            for part, is_document in _parts(text, at_line_start=ends_line):
                if is_document:
                    documents.append(count)
                tokens = vocabulary.encode(_words(part))
                count += len(tokens)
                _write(file, tokens, field)
            ends_line = text.endswith("\n")
        if not ends_line:
            count += 1
            _write(file, vocabulary.encode([EOS]), field)
        tokens = np.memmap(file, vocabulary.encode([]).dtype, "r", shape=(count,))
    return Text(
        path=path,
        tokens=tokens,
        documents=np.array(documents, np.int64),
        first=vocabulary.words.index(EOS),
        characters=characters,
        size=reader.size,
        sha256=reader.sha256,
    )


def map_bytes(path: Path, *, field: str) -> Text:
    """The bytes of a file, whatever they are. The file must stay as it is meanwhile."""
    reader = _Reader(path, field, words=False)
    documents: list[int] = []
    characters = 0
    ends_line = True
    for block in reader:
        starts = [heading.start() for heading in _HEADINGS_IN_BYTES.finditer(block.data)]
        documents += [block.offset + start for start in starts if start or ends_line]
        ends_line = block.data.endswith(b"\n")
        data = np.frombuffer(block.data, np.uint8)
        characters += int(np.count_nonzero((data & 0xC0) != 0x80))
    return Text(
        path=path,
        tokens=np.memmap(path, np.uint8, "r"),
        documents=np.array(documents, np.int64),
        first=ord("\n"),
        characters=characters,
        size=reader.size,
        sha256=reader.sha256,
    )


@dataclass(frozen=True, slots=True)
class _Block:
    offset: int
    data: bytes


class _Reader:
    """A file's blocks, each cut behind a line or, where lines are longer, behind a space; size and
    hash of all once they have been read. ConfigError for what cannot be read."""

    def __init__(self, path: Path, field: str, *, words: bool = True) -> None:
        """``words``: refuse what has no space for the length of a block."""
        self._path, self._field, self._words = path, field, words
        self.size = 0
        self.sha256 = ""

    def __iter__(self) -> Iterator[_Block]:
        digest = hashlib.sha256()
        rest, offset = b"", 0
        for data in self._read():
            digest.update(data)
            self.size += len(data)
            data = rest + data
            cut = data.rfind(b"\n") + 1 or max(data.rfind(b" "), data.rfind(b"\t")) + 1
            if not cut and self._words and len(data) > BLOCK:
                raise self._wrong(f"byte {offset}: a word of more than {BLOCK:,} bytes")
            if not cut and not self._words:
                cut = len(data)
            if cut:
                yield _Block(offset, data[:cut])
            rest, offset = data[cut:], offset + cut
        if rest:
            yield _Block(offset, rest)
        if not self.size:
            raise self._wrong("is empty")
        self.sha256 = digest.hexdigest()

    def _read(self) -> Iterator[bytes]:
        try:
            with self._path.open("rb") as file:
                while data := file.read(BLOCK):
                    yield data
        except OSError as error:
            raise self._wrong(str(error.strerror)) from None

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(f"{self._field}: {self._path}: {what}, expected a text file")


def _decoded(block: _Block, path: Path, field: str) -> str:
    try:
        text = block.data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{field}: {path}: byte {block.offset + error.start}: got "
            f"0x{block.data[error.start]:02x}, which is not UTF-8; expected a text in UTF-8, or "
            "level byte"
        ) from None
    return text.removeprefix("\ufeff") if block.offset == 0 else text


def _words(text: str) -> list[str]:
    return text.replace("\n", f" {EOS} ").split()


def _parts(text: str, *, at_line_start: bool) -> Iterator[tuple[str, bool]]:
    """A text cut before each heading, and whether the part begins with one."""
    starts = [heading.start() for heading in _HEADINGS.finditer(text)]
    if starts[:1] == [0] and not at_line_start:
        del starts[0]  # the rest of a long line
    if starts[:1] != [0]:
        yield text[: starts[0] if starts else None], False
    for start, stop in pairwise([*starts, len(text)]):
        yield text[start:stop], True


def _write(file: Any, tokens: NDArray[Any], field: str) -> None:
    try:
        file.write(tokens.tobytes())
        file.flush()
    except OSError as error:
        raise ConfigError(
            f"{field}: its tokens cannot be kept in {tempfile.gettempdir()}: {error.strerror}; "
            "set TMPDIR to a folder with room"
        ) from None
