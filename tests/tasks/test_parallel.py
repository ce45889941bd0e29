"""Parallel files and tokens: what is read, what is refused, and the sequences they become."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fwp_rl.config import ConfigError
from fwp_rl.tasks.parallel import Bytes, Pairs, Pieces, read_lines, read_pairs, train_pieces

FIELDS = ("train_source", "train_target")

SOURCES = [[1, 2, 3], [4], [], [0, 0]]
TARGETS = [[2], [3, 3, 1], [4, 0], [1, 2, 3, 4]]
BOUNDARY = 5


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_lines_end_with_lf_or_cr_lf_and_with_nothing_else(tmp_path: Path) -> None:
    text = "\ufeffone\r\ntwo\u2028still two\n\nfour\x0b\n"
    path = write(tmp_path / "a", text)
    assert read_lines(path, field="f") == ["one", "two\u2028still two", "", "four\x0b"]
    assert read_lines(write(tmp_path / "b", "no end"), field="f") == ["no end"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"f: .*a: No such file or directory, expected a text file$"),
        (b"", r"f: .*a: is empty, expected a sentence in each line$"),
        (b" \n\r\n", r"f: .*a: is empty, expected"),
        ("caf\xe9\n".encode("latin-1"), r"f: .*a: line 1, byte 3: got 0xe9, which is not UTF-8"),
        (b"one\ntwo\n\xff\xfe", r"f: .*a: line 3, byte 8: got 0xff, which is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "a"
    if content is not None:
        write(path, content)
    with pytest.raises(ConfigError, match=says) as caught:
        read_lines(path, field="f")
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory, expected a text file"):
        read_lines(tmp_path, field="f")


def test_two_files_have_as_many_lines(tmp_path: Path) -> None:
    source, target = write(tmp_path / "a.en", "one\ntwo\n"), write(tmp_path / "a.es", "uno\n")
    with pytest.raises(
        ConfigError, match=r"train_target: .*a\.es: has 1 lines, expected 2, as .*a\.en has$"
    ):
        read_pairs(source, target, fields=FIELDS, drop=True)


def test_blank_lines_are_left_out_or_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.en", "one\n \nthree\nfour\n")
    target = write(tmp_path / "a.es", "uno\ndos\n\ncuatro\n")
    with pytest.warns(UserWarning, match="train_source, train_target: 2 of 4 pairs are left out"):
        pairs = read_pairs(source, target, fields=FIELDS, drop=True)
    assert pairs == [("one", "uno"), ("four", "cuatro")]
    with pytest.raises(ConfigError, match=r"train_source: .*a\.en: line 2 is blank"):
        read_pairs(source, target, fields=FIELDS, drop=False)
    write(source, "one\ntwo\nthree\nfour\n")
    with pytest.raises(ConfigError, match=r"train_target: .*a\.es: line 3 is blank"):
        read_pairs(source, target, fields=FIELDS, drop=False)
    write(source, "\n\nthree\n\n")
    with pytest.raises(ConfigError, match="no line has words both here and in"):
        read_pairs(source, target, fields=FIELDS, drop=True)


def test_a_batch_is_its_pairs_one_by_one() -> None:
    pairs = Pairs.of(SOURCES, TARGETS, BOUNDARY)
    chosen = [3, 0, 2, 1, 3]
    batch = pairs.batch(np.array(chosen))
    steps = max(len(SOURCES[i]) + len(TARGETS[i]) + 1 for i in chosen)
    assert batch.input.shape == (steps, len(chosen))
    for column, number in enumerate(chosen):
        source, target = SOURCES[number], TARGETS[number]
        read = [*source, BOUNDARY, *target]
        answers = [*target, BOUNDARY]
        asked = range(len(source), len(source) + len(answers))
        assert batch.input[: len(read), column].tolist() == read
        assert batch.mask[:, column].nonzero().flatten().tolist() == list(asked)
        assert batch.target[:, column][batch.mask[:, column]].tolist() == answers
        assert batch.reset[:, column].tolist() == [True] + [False] * (steps - 1)
    assert batch.input.dtype == batch.target.dtype == torch.int64
    assert batch.input.max() <= BOUNDARY


def test_prompts_end_together_and_begin_with_a_reset() -> None:
    pairs = Pairs.of(SOURCES, TARGETS, BOUNDARY)
    symbols, reset = pairs.prompts(np.array([1, 0, 2]))
    assert symbols[:, 1].tolist() == [1, 2, 3, BOUNDARY]
    assert symbols[2:, 0].tolist() == [4, BOUNDARY]
    assert symbols[3:, 2].tolist() == [BOUNDARY]
    assert [column.nonzero().flatten().tolist() for column in reset.T] == [[2], [0], [3]]


def test_some_of_the_pairs() -> None:
    some = Pairs.of(SOURCES, TARGETS, BOUNDARY).of_these(np.array([1, 3]))
    alone = Pairs.of([SOURCES[1], SOURCES[3]], [TARGETS[1], TARGETS[3]], BOUNDARY)
    everyone = np.arange(2)
    assert len(some) == 2
    torch.testing.assert_close(some.batch(everyone).input, alone.batch(everyone).input)
    torch.testing.assert_close(some.batch(everyone).mask, alone.batch(everyone).mask)


def test_bytes_say_any_text_and_survive_what_is_none() -> None:
    text = "¿Qué, ein­und­zwanzig? 語 \U0001f600"
    (symbols,) = Bytes().encode([text])
    assert symbols == list(text.encode())
    assert Bytes().decode(symbols) == text
    assert Bytes().decode([0xC3, 0x41]) == "\ufffdA"
    assert Bytes().dump() is None


TEXTS = [
    "el perro come",
    "the dog eats",
    "the cats eat, the dogs eat",
    "¿qué come el gato?",
    "los gatos comen",
]


def test_pieces_are_learned_kept_and_read_again() -> None:
    pytest.importorskip("sentencepiece")
    model = train_pieces(TEXTS, 50)
    assert train_pieces(TEXTS, 50) == model
    pieces = Pieces(model, source="here")
    assert pieces.size == 50
    again = Pieces(pieces.dump(), source="there")
    encoded = pieces.encode(TEXTS)
    assert again.encode(TEXTS) == encoded
    assert [pieces.decode(symbols) for symbols in encoded] == TEXTS
    assert {symbol for symbols in encoded for symbol in symbols} <= set(range(50))
    assert sum(map(len, encoded)) < sum(map(len, TEXTS)), "some pieces have several characters"
    assert "⁇" in pieces.decode(*pieces.encode(["語"]))


def test_pieces_that_there_cannot_be() -> None:
    pytest.importorskip("sentencepiece")
    for size, says in ((5000, r"got 5,000, expected at most \d+: the"), (9, "at least 22: the")):
        with pytest.raises(ConfigError, match=f"vocabulary_size: .*{says}") as caught:
            train_pieces(TEXTS, size)
        assert "\n" not in str(caught.value)
    assert Pieces(train_pieces(TEXTS, 22), source="here").size == 22
    for broken in (b"", b"nonsense", train_pieces(TEXTS, 50)[:-7]):
        with pytest.raises(ConfigError, match=r"^here: is no model of SentencePiece$"):
            Pieces(broken, source="here")
