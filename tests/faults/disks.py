"""What can happen to a disk while a training writes to it."""

import ctypes
import errno
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["FAULTS", "MENDED", "obey_modes"]

LIMIT = 10_000
"""Bytes that a file can have on the disk that is full: metrics of some updates, half a checkpoint.
The system itself refuses what goes beyond, in the middle of a write."""

_fsync = os.fsync


def obey_modes() -> None:
    """Let what is read-only be so for root as well: for this process alone, and for good."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, twice: 64 bits
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for place in (0, 1):
        sets[place] &= ~0b1110  # DAC_OVERRIDE, DAC_READ_SEARCH and FOWNER
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _refuse_to_sync(descriptor: int) -> None:
    """Where space is given out late, the lack of it is told at the end."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _set(module: Any, name: str, value: Any) -> None:
    setattr(module, name, value)


def _set_modes(run: Path, mode: int) -> None:
    for folder in (run, *(path for path in run.rglob("*") if path.is_dir())):
        folder.chmod(mode)
    for file in run.rglob("*"):
        if file.is_file():
            file.chmod(mode & 0o666)


def _remove_all(run: Path, pattern: str) -> None:
    for path in run.glob(pattern):
        path.unlink()


FAULTS: dict[str, Callable[[Path], object]] = {
    "full": lambda run: _limit(LIMIT),
    "no-space": lambda run: _set(os, "fsync", _refuse_to_sync),
    "read-only": lambda run: _set_modes(run, 0o555),
    "removed": lambda run: shutil.rmtree(run),
    "renamed": lambda run: run.rename(run.with_name("elsewhere")),
    "checkpoints-removed": lambda run: shutil.rmtree(run / "checkpoints"),
    "events-removed": lambda run: _remove_all(run, "events.*"),
    "metrics-removed": lambda run: _remove_all(run, "metrics.jsonl"),
}
MENDED: dict[str, Callable[[Path], object]] = {
    "full": lambda run: _limit(resource.RLIM_INFINITY),
    "no-space": lambda run: _set(os, "fsync", _fsync),
    "read-only": lambda run: _set_modes(run, 0o755),
    "renamed": lambda run: run.with_name("elsewhere").rename(run),
}
