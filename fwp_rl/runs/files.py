"""Files and folders that are whole or absent, whatever kills the process.

Everything is written under a temporary name beside its target, fsynced, renamed, and the parent
folder fsynced. A *sealed folder* carries a ``manifest.json`` with the size and SHA-256 of each of
its files, so that a flipped bit or a hole is found on reading: neither safetensors nor torch.save
notices one. safetensors would also skip the fsync and make files of mode 0600; here all bytes go
through one writer.
"""

import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fwp_rl

__all__ = [
    "CheckpointError",
    "SealedFolder",
    "dump_json",
    "folder_exists",
    "parse_json",
    "read_folder",
    "remove",
    "write_file",
    "write_folder",
    "write_json",
]

MANIFEST = "manifest.json"
SCHEMA = 1
"""Version of the folders' layout; a reader refuses newer ones."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TEMPORARY = re.compile(r"\.tmp-(\d+)-([0-9a-f]{8})\d+")
_TOKEN = secrets.token_hex(4)  # tells this process from an earlier one that had the same id
_numbers = itertools.count()


class CheckpointError(RuntimeError):
    """A checkpoint or policy folder that cannot be used; names the file and the reason."""


@dataclass(frozen=True, kw_only=True)
class SealedFolder:
    """A verified folder: the bytes of each file, and what its writer noted in the manifest."""

    files: Mapping[str, bytes]
    about: Mapping[str, Any]


def write_file(path: Path, data: bytes | str) -> None:
    """Create or replace one file atomically; makes its folder where missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / _temporary_name()
    try:
        _write_synced(temporary, data.encode() if isinstance(data, str) else data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Create or replace one JSON file atomically. ValueError on NaN or infinity."""
    write_file(path, dump_json(value))


def dump_json(value: Any) -> bytes:
    """Indented JSON; numpy scalars are numbers. ValueError on NaN, infinity and foreign types."""
    try:
        return (json.dumps(value, indent=1, allow_nan=False, default=_as_number) + "\n").encode()
    except (ValueError, TypeError) as error:
        raise ValueError(f"cannot be written as JSON: {error}") from error


def parse_json(data: bytes, source: Path) -> dict[str, Any]:
    """The JSON object in ``data``, or a CheckpointError that names ``source``."""
    try:
        value = json.loads(data)
    except ValueError as error:  # covers bad UTF-8 too
        raise CheckpointError(f"{source}: is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{source}: holds a JSON {type(value).__name__}, expected an object")
    return value


def write_folder(
    target: Path, files: Mapping[str, bytes], *, kind: str, about: Mapping[str, Any]
) -> None:
    """Create or replace a sealed folder.

    kind   what the folder is; a reader asks for the same word
    about  small facts for the manifest, readable without the files

    A folder cannot be replaced in one step. The old one is moved to ``<name>.old`` first, and
    ``read_folder`` takes that one where a crash, or a reader's bad luck, finds no ``<name>``.
    """
    parent = target.parent
    parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(parent)
    manifest = {
        "kind": kind,
        "schema": SCHEMA,
        "fwp_rl": fwp_rl.__version__,
        "about": about,
        "files": {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        },
    }
    temporary = parent / _temporary_name()
    try:
        temporary.mkdir()
        for name, data in {**files, MANIFEST: dump_json(manifest)}.items():
            _write_synced(temporary / name, data)
        _sync_folder(temporary)
        if target.exists():
            remove(_old(target))
            os.rename(target, _old(target))
        os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(parent)
    remove(_old(target))


def read_folder(path: Path, *, kind: str, expected: Iterable[str]) -> SealedFolder:
    """Read a sealed folder whole and verify it, or raise a CheckpointError.

    expected  names that the manifest must list

    Only files that the manifest lists are opened, and none outside the folder. What is verified
    are the very bytes that are returned.
    """
    if not path.exists() and folder_exists(path):
        path = _old(path)
    manifest_path = path / MANIFEST
    manifest = _read_manifest(manifest_path, kind)
    entries = manifest.get("files")
    if not isinstance(entries, dict):
        raise CheckpointError(f"{manifest_path}: lists no files")
    missing = [name for name in expected if name not in entries]
    if missing:
        raise CheckpointError(f"{manifest_path}: does not list {', '.join(missing)}")
    files = {name: _read_verified(path, name, entry) for name, entry in entries.items()}
    about = manifest.get("about")
    return SealedFolder(files=files, about=about if isinstance(about, dict) else {})


def folder_exists(path: Path) -> bool:
    """Whether ``read_folder`` has something to read there."""
    return path.is_dir() or _old(path).is_dir()


def remove(folder: Path) -> None:
    """Delete a folder, if there is one, so that a crash on the way leaves no half of it."""
    if folder.exists():
        temporary = folder.parent / _temporary_name()
        os.rename(folder, temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def _read_manifest(path: Path, kind: str) -> dict[str, Any]:
    if not path.parent.is_dir():
        raise CheckpointError(f"{path.parent}: there is no such folder")
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing, so this is no finished {kind} folder")
    manifest = parse_json(path.read_bytes(), path)
    schema = manifest.get("schema")
    if not isinstance(schema, int) or schema < 1:
        raise CheckpointError(
            f"{path}: has schema {schema!r}, expected a number from 1 to {SCHEMA}"
        )
    if schema > SCHEMA:
        raise CheckpointError(
            f"{path}: has schema {schema}, written by fwp_rl {manifest.get('fwp_rl')}; this is "
            f"fwp_rl {fwp_rl.__version__}, which reads up to schema {SCHEMA}: upgrade fwp_rl"
        )
    if manifest.get("kind") != kind:
        raise CheckpointError(f"{path}: is of a {manifest.get('kind')!r} folder, expected {kind!r}")
    return manifest


def _read_verified(folder: Path, name: str, entry: Any) -> bytes:
    path = folder / name
    if not _PLAIN_NAME.fullmatch(name):
        raise CheckpointError(f"{folder / MANIFEST}: lists {name!r}, which is no plain file name")
    if not isinstance(entry, dict):
        raise CheckpointError(f"{folder / MANIFEST}: says nothing of {name}")
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing")
    size = path.stat().st_size
    if size != entry.get("size"):
        raise CheckpointError(f"{path}: has {size} bytes, the manifest says {entry.get('size')}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != entry.get("sha256"):
        raise CheckpointError(f"{path}: is damaged: its SHA-256 is not the one in the manifest")
    return data


def _as_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _old(target: Path) -> Path:
    return target.with_name(f"{target.name}.old")


def _temporary_name() -> str:
    return f".tmp-{os.getpid()}-{_TOKEN}{next(_numbers)}"


def _remove_leftovers(folder: Path) -> None:
    """Delete what dead processes left under temporary names."""
    for path in folder.glob(".tmp-*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or _may_be_alive(int(match[1]), match[2]):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _may_be_alive(pid: int, token: str) -> bool:
    if pid == os.getpid():
        return token == _TOKEN
    if os.name == "nt":  # where os.kill(pid, 0) is no harmless question
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # has no handle for a folder to fsync
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
