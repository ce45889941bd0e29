"""What several commands have in common."""

import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import tyro

from fwp_rl.config import ConfigError, as_written

__all__ = ["Actions", "Checkpoint", "Source", "fail", "note", "which_checkpoint"]

Source = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_POLICY")]
Checkpoint = Annotated[str, tyro.conf.arg(metavar="last|best|STEP")]
Actions = Annotated[str | None, tyro.conf.arg(metavar="RULE")]


def which_checkpoint(given: str) -> Literal["last", "best"] | int:
    """What ``--checkpoint`` names: a number of environment steps may be spelled ``1_000_000``,
    ``1e6`` or as it is printed, ``1,000,000``."""
    if given == "last":
        return "last"
    if given == "best":
        return "best"
    try:
        step = int(str(as_written(given.replace(",", ""), (int,))))
    except ValueError:
        step = -1
    if step < 0:
        raise ConfigError(
            f"--checkpoint: got {given!r}, expected last, best, or a number of environment steps"
        )
    return step


def note(text: str) -> None:
    """Tell, beside a command's output."""
    print(f"fwp-rl: {text}", file=sys.stderr)


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong and leave."""
    note(message)
    sys.exit(code)
