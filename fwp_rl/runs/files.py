"""Files and folders that are whole or absent, whatever kills the process.

Everything is written under a temporary name beside its target, fsynced, renamed, and the parent
folder fsynced. A *sealed folder* carries a ``manifest.json`` with the size and SHA-256 of each of
its files, and of itself, so that a flipped bit or a hole is found on reading: neither safetensors
nor torch.save notices one. safetensors would also skip the fsync and make files of mode 0600; here
all bytes go through one writer.

What is read may have been made by anybody. No file is opened that is not expected, none outside
its folder, and none is read further than such a file can be long.
"""

import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fwp_rl
from fwp_rl.registry import named, shown
from fwp_rl.runs.json_files import (
    JSON_BYTES,
    CheckpointError,
    dump_json,
    parse_json,
    read_json,
    read_limited,
)

__all__ = [
    "CheckpointError",
    "JSON_BYTES",
    "SealedFolder",
    "dump_json",
    "folder_exists",
    "parse_json",
    "read_folder",
    "read_json",
    "read_limited",
    "remove",
    "write_file",
    "write_folder",
    "write_json",
]

MANIFEST = "manifest.json"
SCHEMA = 2
"""Version of the folders' layout; a reader refuses newer ones. Manifests of 1 have no seal."""

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TEMPORARY = re.compile(r"\.tmp-(\d+)-([0-9a-f]{8})\d+")
_TOKEN = secrets.token_hex(4)  # tells this process from an earlier one that had the same id
_numbers = itertools.count()


@dataclass(frozen=True, kw_only=True)
class SealedFolder:
    """A folder whose manifest has been read and verified; its files have not."""

    path: Path
    """Where it lies: ``<name>.old`` where a crash left no ``<name>``."""
    schema: int
    about: Mapping[str, Any]
    """What its writer noted in the manifest."""
    sizes: Mapping[str, int]
    """Bytes of each file that the manifest lists."""
    hashes: Mapping[str, str]

    def file(self, name: str) -> Path:
        """The path of a listed file, which is a file of that size inside the folder."""
        path = self.path / name
        try:
            _check_inside(path)
            size = path.stat().st_size
        except FileNotFoundError:
            raise CheckpointError(f"{path}: is missing") from None
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
        if size != self.sizes[name]:
            raise CheckpointError(f"{path}: has {size} bytes, the manifest says {self.sizes[name]}")
        return path

    def read(self, name: str, *, most: int | None = None) -> bytes:
        """The verified bytes of a listed file, of at most ``most``, or a CheckpointError."""
        path, size = self.file(name), self.sizes[name]
        if most is not None and size > most:
            raise CheckpointError(f"{path}: has {size:,} bytes, expected at most {most:,}")
        try:
            data = read_limited(path, size)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: is missing") from None
        if hashlib.sha256(data).hexdigest() != self.hashes[name]:
            raise CheckpointError(f"{path}: is damaged: its SHA-256 is not the one in the manifest")
        return data


def write_file(path: Path, data: bytes | str) -> None:
    """Create or replace one file atomically; makes its folder where missing, and clears away there
    what dead processes left half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
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
    manifest["seal"] = _seal(json.loads(dump_json(manifest)))
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
    """Verify the manifest of a sealed folder, or raise a CheckpointError.

    expected  names that the manifest must list; these can be read, and no others
    """
    from fwp_rl.runs.schema import Manifest, checked  # a mistyped path is told without pydantic

    if not path.exists() and folder_exists(path):
        path = _old(path)
    source = path / MANIFEST
    data = _read_manifest(source, kind)
    manifest = checked(Manifest, data, source)
    missing = [name for name in expected if name not in manifest.files]
    if missing:
        raise CheckpointError(f"{source}: does not list {', '.join(missing)}")
    entries = {name: manifest.files[name] for name in expected}
    return SealedFolder(
        path=path,
        schema=data["schema"],
        about=manifest.about,
        sizes={name: entry.size for name, entry in entries.items()},
        hashes={name: entry.sha256 for name, entry in entries.items()},
    )


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
    """The manifest, of a schema that is known, with a seal that holds, of a folder of this kind."""
    if not path.parent.is_dir():
        raise CheckpointError(f"{path.parent}: there is no such folder")
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing, so this is no finished {kind} folder")
    try:
        _check_inside(path)
        manifest = read_json(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    schema = manifest.get("schema")
    if type(schema) is not int or schema < 1:
        raise CheckpointError(
            f"{path}: has schema {shown(schema)}, expected a number from 1 to {SCHEMA}"
        )
    if schema > SCHEMA:
        raise CheckpointError(
            f"{path}: has schema {shown(schema)}, written by fwp_rl "
            f"{named(manifest.get('fwp_rl'))}; this is fwp_rl {fwp_rl.__version__}, which reads up "
            f"to schema {SCHEMA}: upgrade fwp_rl"
        )
    sealed = "seal" in manifest
    if (sealed or schema > 1) and manifest.pop("seal", None) != _seal(manifest):
        raise CheckpointError(f"{path}: is damaged: its seal is not that of what it says")
    if manifest.get("kind") != kind:
        raise CheckpointError(
            f"{path}: is of a {shown(manifest.get('kind'))} folder, expected {kind!r}"
        )
    return manifest


def _seal(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of what a manifest says, however it is written."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _check_inside(path: Path) -> None:
    """CheckpointError where the file of a folder is none, or is a link that leads out of it."""
    folder, target = os.path.realpath(path.parent), os.path.realpath(path)
    if os.path.dirname(target) != folder:
        raise CheckpointError(f"{path}: is a link out of its folder, expected a file")
    if not stat.S_ISREG(os.stat(target).st_mode):
        raise CheckpointError(f"{path}: is no file")


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
