"""``python -m fwp_rl.tasks.corpora``: see the package."""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from fwp_rl.config import ConfigError
from fwp_rl.tasks.corpora.archives import SOURCES, documents, split, tokens
from fwp_rl.tasks.corpora.grammar import nats, sentences

__all__ = ["main"]

GRAMMAR: Final = {"train": 20_000, "validation": 2_000, "test": 2_000}
"""Sentences of each split."""


def main(args: Sequence[str] | None = None) -> None:
    """The command, with these arguments."""
    downloads = "; ".join(f"{name}: {source.command}" for name, source in SOURCES.items())
    contents = "; ".join(f"{name}: {source.what}" for name, source in SOURCES.items())
    parser = argparse.ArgumentParser(
        prog="python -m fwp_rl.tasks.corpora",
        description="Write the files of a text, for fwp-rl task language_cpu and its kin.",
        epilog=f"Packages: {downloads}",
    )
    parser.add_argument(
        "name",
        choices=["grammar", *SOURCES],
        help=f"grammar: generated sentences, whose least perplexity is known; {contents}",
    )
    parser.add_argument("archive", nargs="?", type=Path, help="the package, where one is needed")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    given = parser.parse_args(args)
    try:
        given.output.mkdir(parents=True, exist_ok=True)
        if given.name == "grammar":
            _write_grammar(given.output)
        elif given.archive is None:
            command = SOURCES[given.name].command
            raise ConfigError(f"{given.name}: no archive is given; get it by: {command}")
        else:
            _write_documents(given.name, given.archive, given.output)
    except (ConfigError, OSError) as error:
        sys.exit(f"corpora: {error}")


def _write_documents(name: str, archive: Path, folder: Path) -> None:
    for part, texts in split(documents(name, archive)).items():
        plain = "".join(f" = {title} = \n{text}" for title, text in texts.items())
        words = "".join(f" = {title} = \n{tokens(text)}" for title, text in texts.items())
        _write(folder, f"{name}.{part}", {"txt": plain, "tokens": words}, f"{len(texts)} documents")


def _write_grammar(folder: Path) -> None:
    for seed, (part, count) in enumerate(GRAMMAR.items()):
        lines = sentences(count, seed)
        text = "".join(f"{line}\n" for line in lines)
        least = f"perplexity of words at least {math.exp(nats(lines)):.3f}"
        _write(folder, f"grammar.{part}", {"txt": text, "tokens": text}, least)


def _write(folder: Path, stem: str, texts: Mapping[str, str], what: str) -> None:
    for kind, text in texts.items():
        path = folder / f"{stem}.{kind}"
        path.write_text(text, encoding="utf-8", newline="\n")
        count = len(text.encode()) if kind == "txt" else len(text.split()) + text.count("\n")
        unit = "bytes" if kind == "txt" else "tokens"
        print(f"{path}: {count:,} {unit}, {what}")


if __name__ == "__main__":
    main()
