"""``python -m fwp_rl.tasks.bible_pairs``: see the package."""

import sys
from pathlib import Path

import tyro

from fwp_rl.config import ConfigError
from fwp_rl.tasks.bible_pairs import write


def main(*, kjv: Path, sparv: Path, output: Path) -> None:
    """Make files to translate of two Bibles.

    Args:
        kjv: Folder of the module engKJV2006eb, of Debian's sword-text-kjv.
        sparv: Folder of the module spaRV1909eb, of Debian's sword-text-sparv.
        output: Folder to write train, validation and test to, .en and .es.
    """
    try:
        parts = write(kjv, sparv, output)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    counts = ", ".join(f"{name} {len(verses):,}" for name, verses in parts.items())
    print(f"Pairs of verses in {output}: {counts}")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m fwp_rl.tasks.bible_pairs")
