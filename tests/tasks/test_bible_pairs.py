"""Modules of SWORD, made here byte by byte, and the verses that are read of them."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from fwp_rl.config import ConfigError
from fwp_rl.tasks.bible_pairs import HELD_OUT, Verse, plain, read_records, split, verses, write
from fwp_rl.tasks.bible_pairs.__main__ import main


def module(folder: Path, old: list[list[str]], new: list[list[str]]) -> Path:
    """A module of zText; records by book, of each testament."""
    folder.mkdir()
    for name, books in (("ot", old), ("nt", new)):
        index = places = packed = b""
        for number, records in enumerate(books):
            text = b""
            for record in records:
                encoded = record.encode()
                index += struct.pack("<IIH", number, len(text), len(encoded))
                text += encoded
            block = zlib.compress(text)
            places += struct.pack("<III", len(packed), len(block), len(text))
            packed += block
        for kind, data in (("v", index), ("s", places), ("z", packed)):
            (folder / f"{name}.bz{kind}").write_bytes(data)
    return folder


ENGLISH = [
    [
        '<div osisID="Gen" sID="gen2" type="book"/> <title level="1" type="main">Genesis</title>',
        '<chapter n="1" osisID="Gen.1" sID="Gen.1"/> ',
        'In the <w lemma="strong:H7225">beginning</w> \\nd <w lemma="strong:H0430">God</w>. ',
        '<div sID="p1" type="x-p"/>¶ And <transChange type="added">was</transChange>, void.'
        '<note placement="foot"><reference type="annotateRef">1.2 </reference>by: Heb.</note> '
        ' <chapter eID="Gen.1"/> <div eID="gen2" type="book"/>',
    ],
    [
        '<chapter n="1" osisID="Ps.1" sID="Ps.1"/> ',
        '<title canonical="true" type="psalm">A <w lemma="x">Psalm</w>.</title> <l sID="l1"/>'
        '<divineName><w lemma="strong:H3068">LORD</w></divineName> &amp; all.<l eID="l1"/>',
        "Only here.",
    ],
]
SPANISH = [
    [
        '<div osisID="Gen" sID="gen2" type="book"/> <title level="1" type="main">Génesis</title>',
        '<chapter n="1" osisID="Gen.1" sID="Gen.1"/>',
        '<w lemma="strong:H7225">EN el principio</w> <w lemma="strong:H0430">Dios</w> . ',
        '<w lemma="a">y</w><transChange type="added">la</transChange><w lemma="b">vio</w>: '
        '¿<w lemma="c">No</w>? <chapter eID="Gen.1"/>',
    ],
    [
        '<chapter n="1" osisID="Ps.1" sID="Ps.1"/>',
        '<w lemma="x">Salmo</w>. <w lemma="strong:H3068">Jehová</w>',
        "",
    ],
]


def test_verses_of_two_modules(tmp_path: Path) -> None:
    kjv = module(tmp_path / "kjv", ENGLISH, ENGLISH[:1])
    sparv = module(tmp_path / "sparv", SPANISH, SPANISH[:1])
    genesis = [
        ("In the beginning God.", "EN el principio Dios."),
        ("And was, void.", "y la vio: ¿No?"),
    ]
    assert verses(read_records(kjv), read_records(sparv)) == [
        *(Verse(1, *pair) for pair in genesis),
        Verse(2, "A Psalm. LORD & all.", "Salmo. Jehová"),
        *(Verse(3, *pair) for pair in genesis),
    ]


def test_what_is_no_verse_says_nothing() -> None:
    for record in ENGLISH[0][:2] + SPANISH[0][:2] + ["", "<lb/>", "<note>a\nb</note>"]:
        assert plain(record) == ""


def test_whole_chapters_are_held_out_and_what_they_say_is_not_learned() -> None:
    chapters = range(1, 2 * HELD_OUT + 1)
    them = [Verse(c, f"{c} {v}", f"es {c} {v}") for c in chapters for v in range(3)]
    again = Verse(1, f"{HELD_OUT} 0", "otra vez")  # its English is in the test
    parts = split([again, *them])
    assert {v.chapter for v in parts["test"]} == {HELD_OUT, 2 * HELD_OUT}
    assert {v.chapter for v in parts["validation"]} == {HELD_OUT // 2, HELD_OUT + HELD_OUT // 2}
    assert sorted(v for part in parts.values() for v in part) == sorted(them)


def test_files_of_as_many_lines(tmp_path: Path) -> None:
    kjv = module(tmp_path / "kjv", ENGLISH * 30, [])
    sparv = module(tmp_path / "sparv", SPANISH * 30, [])
    with pytest.raises(ConfigError, match="expected as many"):
        verses(read_records(kjv), read_records(sparv)[1:])
    parts = write(kjv, sparv, tmp_path / "out")
    for part, them in parts.items():
        for ending, side in (("en", 1), ("es", 2)):
            text = (tmp_path / "out" / f"{part}.{ending}").read_text(encoding="utf-8")
            assert text.splitlines() == [verse[side] for verse in them]
    assert parts["test"]
    assert parts["validation"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "nt.bzz").unlink(), r"nt\.bzz: No such file.*expected the folder"),
        (lambda f: (f / "ot.bzz").write_bytes(b"no zlib"), r"ot\.bz\*: .*expected a module"),
        (lambda f: (f / "ot.bzv").write_bytes(b"12345"), r"ot\.bz\*: .*expected a module"),
        (lambda f: (f / "ot.bzs").write_bytes(b""), r"ot\.bz\*: .*expected a module"),
    ],
)
def test_what_is_no_module(tmp_path: Path, spoil: object, says: str) -> None:
    folder = module(tmp_path / "kjv", ENGLISH, ENGLISH)
    assert callable(spoil)
    spoil(folder)
    with pytest.raises(ConfigError, match=says) as caught:
        read_records(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    kjv = module(tmp_path / "kjv", ENGLISH, [])
    sparv = module(tmp_path / "sparv", SPANISH, [])
    command = [sys.executable, "-W", "error", "-m", "fwp_rl.tasks.bible_pairs"]
    flags = ["--kjv", str(kjv), "--sparv", str(sparv), "--output", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, *flags], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "train 3, validation 0, test 0" in done.stdout
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_the_command_says_in_a_line_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: .*expected the folder of a module") as caught:
        main(kjv=tmp_path, sparv=tmp_path, output=tmp_path)
    assert "\n" not in str(caught.value)
