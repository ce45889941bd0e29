"""English and Spanish verses of the Bible, as files for the task ``translation``.

The King James Version (1769) and the Reina-Valera of 1909, both in the public domain, lie in
Debian's packages sword-text-kjv and sword-text-sparv, as modules of the SWORD project:

    apt-get download sword-text-kjv sword-text-sparv
    for package in sword-text-*.deb; do dpkg-deb -x "$package" sword; done
    texts=sword/usr/share/sword/modules/texts/ztext
    python -m fwp_rl.tasks.bible_pairs --kjv $texts/engKJV2006eb --sparv $texts/spaRV1909eb \\
        --output bible

A module of the kind zText has a record for each verse, and for each heading, of one versification.
These two have the KJV's, so that records with the same number say the same. For each testament
there are

    .bzv  (block, start, length) of each record, "<IIH"
    .bzs  (offset, size, size when unpacked) of each block, "<III"
    .bzz  the blocks, packed with zlib

A record is a piece of OSIS, an XML. A verse is what is left of it without notes, titles of books
and tags.

Whole chapters are held out: of 40, the 20th is for validation and the 40th for the test. Verses
that stand in one of them too, word for word, are not learned from.
"""

import html
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from fwp_rl.config import ConfigError
from fwp_rl.registry import named

__all__ = ["Verse", "plain", "read_records", "split", "verses", "write"]

HELD_OUT: Final = 40
"""Of so many chapters, one is for validation and one for the test."""

_UNSAID: Final = re.compile(
    r"<note\b[^>]*>.*?</note>|<title\b(?![^>]*canonical)[^>]*>.*?</title>|¶|\\\+?nd\b\*?",
    re.DOTALL,
)
"""What stands in a record and is no part of the verse: ``\\nd`` is what is left of another markup.
Titles of psalms are part of it: the Spanish verses have them too."""
_NO_SPACE: Final = re.compile(r"(</[^>]*>)(?=<[^/!])")
"""Between two elements of which the first ends where the next begins: two words."""
_TAG: Final = re.compile(r"<[^>]*>")
_BEFORE_MARK: Final = re.compile(r"\s+(?=[,.;:!?)])")


class Verse(NamedTuple):
    """In both languages; chapters are counted from the first of the Bible, 1."""

    chapter: int
    english: str
    spanish: str


Split: TypeAlias = "dict[str, list[Verse]]"


def read_records(folder: Path) -> list[str]:
    """All records of a module, Old Testament first. ConfigError for what is no such module."""
    return [record for testament in ("ot", "nt") for record in _testament(folder, testament)]


def _testament(folder: Path, name: str) -> Iterator[str]:
    index, places, packed = (_file(folder, f"{name}.bz{kind}") for kind in "vsz")
    try:
        blocks = [
            zlib.decompress(packed[offset : offset + size])
            for offset, size, _ in struct.iter_unpack("<III", places)
        ]
        for block, start, length in struct.iter_unpack("<IIH", index):
            yield blocks[block][start : start + length].decode() if length else ""
    except (zlib.error, struct.error, IndexError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{named(str(folder / name))}.bz*: {error}; expected a module of SWORD, of the kind "
            "zText, with a block for each book"
        ) from None


def _file(folder: Path, name: str) -> bytes:
    path = folder / name
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{named(str(path))}: {error.strerror}; expected the folder of a module of SWORD, such "
            "as .../modules/texts/ztext/engKJV2006eb"
        ) from None


def plain(record: str) -> str:
    """What a record says, in one line; "" for a heading."""
    text = _UNSAID.sub(" ", record)
    text = _TAG.sub("", _NO_SPACE.sub(r"\1 ", text))
    return _BEFORE_MARK.sub("", " ".join(html.unescape(text).split()))


def verses(english: list[str], spanish: list[str]) -> list[Verse]:
    """Of the records of two modules, where both have words."""
    if len(english) != len(spanish):
        raise ConfigError(
            f"the modules have {len(english):,} and {len(spanish):,} records, expected as many: "
            "both in the versification of the KJV"
        )
    chapter, found = 0, []
    for record, other in zip(english, spanish, strict=True):
        chapter += bool(re.search(r"<chapter\b[^>]*\bsID=", record))
        verse = Verse(chapter, plain(record), plain(other))
        if verse.english and verse.spanish:
            found.append(verse)
    return found


def split(all_verses: list[Verse]) -> Split:
    """Whole chapters to validate and to test on; of the others what is not in them too."""
    held = {HELD_OUT // 2: "validation", 0: "test"}
    parts: Split = {"train": [], "validation": [], "test": []}
    for verse in all_verses:
        parts[held.get(verse.chapter % HELD_OUT, "train")].append(verse)
    seen = {text for part in held.values() for verse in parts[part] for text in verse[1:]}
    parts["train"] = [verse for verse in parts["train"] if not seen & set(verse[1:])]
    return parts


def write(kjv: Path, sparv: Path, output: Path) -> Split:
    """Write train, validation and test, .en and .es, into a folder; returns what they hold."""
    parts = split(verses(read_records(kjv), read_records(sparv)))
    try:
        output.mkdir(parents=True, exist_ok=True)
        for part, them in parts.items():
            for ending, language in (("en", "english"), ("es", "spanish")):
                text = "".join(f"{getattr(verse, language)}\n" for verse in them)
                (output / f"{part}.{ending}").write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ConfigError(f"{named(str(output))}: cannot be written: {error.strerror}") from None
    return parts
