"""The JSON that runs consist of, written without NaN and read without trust.

A file may have been made by anybody: it is read no further than one of ours can be long, and what
it holds is nested no deeper.
"""

import json
import math
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fwp_rl.registry import named

__all__ = ["JSON_BYTES", "CheckpointError", "dump_json", "parse_json", "read_json", "read_limited"]

JSON_BYTES = 1 << 22
"""No JSON file of ours is longer."""
JSON_DEPTH = 40
"""Nor nested deeper."""


class CheckpointError(RuntimeError):
    """A checkpoint or policy folder that cannot be used; names the file and the reason."""


def dump_json(value: Any) -> bytes:
    """Indented JSON; numpy scalars are numbers. ValueError on NaN, infinity and foreign types."""
    try:
        return (json.dumps(value, indent=1, allow_nan=False, default=_as_number) + "\n").encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"cannot be written as JSON: {error}") from error


def read_limited(path: Path, most: int) -> bytes:
    """The bytes of a file. FileNotFoundError where there is none, CheckpointError where it cannot
    be read, is no regular file or has more than ``most``."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise CheckpointError(f"{path}: is no file")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"{named(str(path))}: cannot be read: {error.strerror}") from None
    except MemoryError:
        raise CheckpointError(f"{path}: {most:,} bytes do not fit into memory") from None
    if len(data) > most:
        raise CheckpointError(f"{path}: has more than {most:,} bytes, which such a file never has")
    return data


def read_json(path: Path, *, most: int = JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file. FileNotFoundError where there is no file, CheckpointError where
    it cannot be read, or holds no such object."""
    return parse_json(read_limited(path, most), path)


def parse_json(data: bytes, source: Path) -> dict[str, Any]:
    """The JSON object in ``data``, or a CheckpointError that names ``source``."""
    try:
        value = json.loads(data, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise CheckpointError(f"{source}: is nested too deeply for JSON of ours") from None
    except ValueError as error:  # covers bad UTF-8 too
        raise CheckpointError(f"{source}: is not valid JSON: {str(error)[:160]}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{source}: holds a JSON {type(value).__name__}, expected an object")
    level: list[Any] = [value]
    for _ in range(JSON_DEPTH):
        items = (x for parent in level for x in _items(parent))
        level = [x for x in items if isinstance(x, (dict, list))]
    if level:
        raise CheckpointError(f"{source}: is nested too deeply for JSON of ours")
    return value


def _items(parent: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return parent.values() if isinstance(parent, dict) else parent


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is no finite number")
    return number


def _as_number(value: Any) -> Any:
    numpy = sys.modules.get("numpy")  # not imported: nothing of it can be here
    if numpy is not None and isinstance(value, numpy.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")
