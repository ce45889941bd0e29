"""Text files as tokens: vocabulary, blocks, documents, errors, memory."""

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fwp_rl.config import ConfigError
from fwp_rl.tasks import text
from fwp_rl.tasks.text import Vocabulary, count_words, encode_words, map_bytes


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "a.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def words_of(path: Path) -> list[str]:
    """The slow way: a line at a time, as the papers' code reads."""
    with path.open(encoding="utf-8") as lines:
        return [word for line in lines for word in [*line.split(), "<eos>"]]


def decoded(path: Path, vocabulary: Vocabulary) -> list[str]:
    tokens = encode_words(path, vocabulary, field="train").tokens
    return [vocabulary.words[token] for token in tokens]


def test_a_vocabulary_is_ordered_by_frequency_and_limited_by_it() -> None:
    counts = Counter({"b": 3, "a": 3, "c": 7, "rare": 1, "<eos>": 9, "<unk>": 2})
    assert Vocabulary.of(counts, size=None, min_count=1).words == (
        *("<eos>", "<unk>"),
        *("c", "a", "b", "rare"),
    )
    assert Vocabulary.of(counts, size=None, min_count=2).words[2:] == ("c", "a", "b")
    assert Vocabulary.of(counts, size=4, min_count=1).words[2:] == ("c", "a")


def test_a_vocabulary_survives_its_file() -> None:
    vocabulary = Vocabulary(["<eos>", "<unk>", "ä", "=", "x\u200by"])
    assert Vocabulary.load(vocabulary.dump(), source="v").words == vocabulary.words


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "v: is no vocabulary"),
        (b"a\n<unk>\n", "v: is no vocabulary"),
        (b"<eos>\n<unk>\na", "v: is no vocabulary"),
        (b"<eos>\n<unk>\na b\n", "v: line 3: got 'a b'"),
        (b"<eos>\n<unk>\na\na\n", "v: holds a word twice"),
        (b"<eos>\n<unk>\n\xff\n", "v: byte 12: is not UTF-8"),
    ],
)
def test_what_is_no_vocabulary_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        Vocabulary.load(data, source="v")


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_words_are_read_as_line_by_line(tmp_path: Path, end: str) -> None:
    path = written(tmp_path, f" = Title = \n\n the cat\tsat \u00a0 on <unk> é\r\n the end{end}")
    counts = count_words(path, field="train")
    vocabulary = Vocabulary.of(counts, size=None, min_count=1)
    assert decoded(path, vocabulary) == words_of(path)


def test_unknown_words_become_one(tmp_path: Path) -> None:
    path = written(tmp_path, "a b a\nc\n")
    vocabulary = Vocabulary.of(count_words(path, field="train"), size=None, min_count=2)
    assert decoded(path, vocabulary) == ["a", "<unk>", "a", "<eos>", "<unk>", "<eos>"]


@pytest.mark.parametrize(("words", "size"), [(65_536, 2), (65_537, 4)])
def test_tokens_take_two_bytes_while_they_can(tmp_path: Path, words: int, size: int) -> None:
    vocabulary = Vocabulary(["<eos>", "<unk>", *map(str, range(words - 2))])
    found = encode_words(written(tmp_path, str(words - 3)), vocabulary, field="train")
    assert found.tokens.itemsize == size
    assert found.tokens.tolist() == [words - 1, 0]


@pytest.mark.parametrize("block", [12, 40, 41])
def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    rng = random.Random(0)
    pieces = ["word ", "é ", "\n = Title = \n", "\n", "\n = = no = =\n", "\ta ", "= x ="]
    content = "".join(rng.choice(pieces) for _ in range(400))
    path = written(tmp_path, content)
    vocabulary = Vocabulary.of(count_words(path, field="train"), size=None, min_count=1)
    whole = [encode_words(path, vocabulary, field="train"), map_bytes(path, field="train")]
    monkeypatch.setattr(text, "BLOCK", block)
    assert count_words(path, field="train").total() > 400
    parts = [encode_words(path, vocabulary, field="train"), map_bytes(path, field="train")]
    for one, many in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one.tokens, many.tokens)
        np.testing.assert_array_equal(one.documents, many.documents)
        assert (one.sha256, one.characters) == (many.sha256, many.characters)


def test_documents_begin_at_headings_and_not_at_those_of_sections(tmp_path: Path) -> None:
    path = written(tmp_path, " \n = A long Title = \n a\n = = Part = = \n b\n= Next =\n c = d\n")
    vocabulary = Vocabulary.of(count_words(path, field="train"), size=None, min_count=1)
    found = encode_words(path, vocabulary, field="train")
    starts = [decoded(path, vocabulary)[start : start + 3] for start in found.documents]
    assert starts == [["=", "A", "long"], ["=", "Next", "="]]
    found = map_bytes(path, field="train")
    assert [bytes(found.tokens[start : start + 6]) for start in found.documents] == [
        b" = A l",
        b"= Next",
    ]


def test_bytes_are_the_file(tmp_path: Path) -> None:
    content = "aé日\n".encode() + b"\xff\x00"
    found = map_bytes(written(tmp_path, content), field="train")
    assert bytes(found.tokens) == content
    assert found.size == len(content)
    assert found.characters == 6


@pytest.mark.parametrize("lines", [0, 1, 20, 300])
def test_what_is_not_utf8_is_named_by_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    monkeypatch.setattr(text, "BLOCK", 64)
    line = "abé \n".encode()
    path = written(tmp_path, line * lines + b"a \xff tail\n" + line)
    place = len(line) * lines + 2
    for read in (
        lambda: count_words(path, field="test"),
        lambda: encode_words(path, Vocabulary(["<eos>", "<unk>"]), field="test"),
    ):
        with pytest.raises(ConfigError) as error:
            read()
        assert str(error.value).startswith(f"test: {path}: byte {place}: got 0xff, which is not")


def test_a_word_without_end_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, b"a " + b"x" * (3 << 18))
    with pytest.raises(ConfigError, match=r"train: .*: byte 2: a word of more than 262,144"):
        count_words(path, field="train")
    assert len(map_bytes(path, field="train")) == (3 << 18) + 2


@pytest.mark.slow
def test_the_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """20 MB, whose words alone would take ten times as much, within 32 MiB."""
    line = " ".join(f"word{n}" for n in range(1000)).encode() + b"\n"
    path = written(tmp_path, line * 2_500)
    assert path.stat().st_size > 19_000_000
    found = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True)
    assert found.stdout.split() == [str(2_500 * 1_001), str(path.stat().st_size)], found.stderr


LIMITED = """
import re, resource, sys
from pathlib import Path
from fwp_rl.tasks.text import Vocabulary, count_words, encode_words, map_bytes

path = Path(sys.argv[1])
held = int(re.search(r"VmData:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (held + (32 << 20),) * 2)
vocabulary = Vocabulary.of(count_words(path, field="train"), size=None, min_count=1)
words = encode_words(path, vocabulary, field="train")
print(len(words), len(map_bytes(path, field="train")))
"""
