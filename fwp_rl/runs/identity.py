"""What tells a run from every other: made when it starts, kept by its status, its checkpoints, its
policy and every result that it leads to."""

import secrets
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from fwp_rl.machine import commit, dirty

__all__ = ["from_preset", "new_identity"]

_preset: ContextVar[str | None] = ContextVar("preset", default=None)


@contextmanager
def from_preset(name: str) -> Iterator[None]:
    """Say of the runs that start in here which preset they were made from."""
    token = _preset.set(name)
    try:
        yield
    finally:
        _preset.reset(token)


def new_identity() -> dict[str, Any]:
    """``id``, ``created``, ``commit``, ``dirty``, ``command``, ``preset`` (None for a run that was
    not made from one) and ``sessions``: how often it was started or resumed. As JSON."""
    return {
        "id": secrets.token_hex(8),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "dirty": dirty(),
        "command": shlex.join(sys.orig_argv),
        "preset": _preset.get(),
        "sessions": 1,
    }
