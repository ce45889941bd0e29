"""Ways in which the files of a folder can be damaged, or forged by somebody who means harm.

``mutate(folder, rng)`` does one of them to one file and says which. Those of bytes leave a folder's
seal as it was. Those of JSON are sealed again half of the time, so that what they say is reached;
they never change weights, which nobody could notice who has only the folder.
"""

import hashlib
import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

__all__ = ["KINDS", "mutate", "seal"]

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 10**9, 10**30, 10**400, 1.5, -0.0, 1e300, "", "0", "64", "x" * 300,
    "\0", "\ud800", "../../etc/passwd", "none", "nan", [], {}, [1], ["x"], {"x": 1}, [[]], [None],
]  # fmt: skip
"""Values of the wrong type, or of the right type and no sense."""

DEEP = 3_000
"""Levels: more than Python's own limit."""


def mutate(folder: Path, rng: random.Random, *, spare: Collection[Path] = ()) -> str:
    """Damage one file of a folder, but for those below ``spare``; returns what was done."""
    while True:
        files = [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not any(path.is_relative_to(kept) for kept in spare)
        ]
        kind, path = rng.choice(sorted(KINDS)), rng.choice(files)
        if KINDS[kind](path, rng, files):
            return f"{kind} {path.relative_to(folder)}"


Mutation = Callable[[Path, random.Random, list[Path]], bool]
KINDS: dict[str, Mutation] = {}
"""Name → what is done to a file, given the others; whether it can be done to this one."""


def _of_bytes(change: Callable[[bytearray, random.Random], bytes]) -> None:
    def mutation(path: Path, rng: random.Random, files: list[Path]) -> bool:
        data = bytearray(path.read_bytes())
        if data:
            path.write_bytes(change(data, rng))
        return bool(data)

    KINDS[change.__name__] = mutation


def _of_file(change: Mutation) -> None:
    KINDS[change.__name__] = change


def _of_json(change: Callable[[Any, random.Random], str | None]) -> None:
    """``change`` edits the data in place, or returns the text to write."""

    def mutation(path: Path, rng: random.Random, files: list[Path]) -> bool:
        if path.suffix != ".json":
            return False
        data = json.loads(path.read_bytes())
        text = change(data, rng)
        path.write_text(json.dumps(data) if text is None else text)
        if rng.random() < 0.5:
            seal(path.parent)
        return True

    KINDS[change.__name__] = mutation


def seal(folder: Path) -> None:
    """Make the manifest of a folder, if it has one that can be read, fit its files again."""
    manifest = folder / "manifest.json"
    try:
        data = json.loads(manifest.read_bytes())
        for name, entry in data["files"].items():
            whole = (folder / name).read_bytes()
            entry |= {"size": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    manifest.write_text(json.dumps(data | {"seal": _digest(data)}))


def _digest(manifest: dict[str, Any]) -> str:
    said = {key: value for key, value in manifest.items() if key != "seal"}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# --- bytes


@_of_bytes
def flipped_bit(data: bytearray, rng: random.Random) -> bytes:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


@_of_bytes
def other_bytes(data: bytearray, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    length = min(rng.choice([1, 8, 512, 4096]), len(data) - start)
    data[start : start + length] = rng.randbytes(length)
    return data


@_of_bytes
def zeros(data: bytearray, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    length = min(rng.choice([8, 512, 4096]), len(data) - start)
    data[start : start + length] = bytes(length)
    return data


@_of_bytes
def truncated(data: bytearray, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


@_of_bytes
def extended(data: bytearray, rng: random.Random) -> bytes:
    return data + rng.choice([b"\0", b"}", rng.randbytes(100), bytes(100_000), data])


@_of_bytes
def inserted(data: bytearray, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + rng.choice([b"\0", b"{", b"\xff", rng.randbytes(9)]) + data[place:]


@_of_bytes
def text_of_another_kind(data: bytearray, rng: random.Random) -> bytes:
    deep = b'{"a":' * DEEP + b"1" + b"}" * DEEP
    bomb = b"a: &a [1, 2]\n" + b"".join(
        b"%c: &%c [%s]\n" % (c, c, b", ".join([b"*%c" % (c - 1)] * 9)) for c in b"bcdefghi"
    )
    words = [b"", b"{}", b"[]", b"null", b"1", b'"x"', b"{", b"\xff\xfe", b"NaN", b"- a\n- b\n"]
    dates = b"a: 2001-13-45\nb: !!int x\nc: !!timestamp x\n" + b"d: " + b"9" * 5000
    return rng.choice([*words, deep, bomb, dates, b"[" * DEEP, b"a: &a [*a]", b"a: 1\na: 2"])


# --- files


@_of_file
def swapped_with_another(path: Path, rng: random.Random, files: list[Path]) -> bool:
    other = rng.choice(files)
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)
    return mine != theirs


@_of_file
def overwritten_with_another(path: Path, rng: random.Random, files: list[Path]) -> bool:
    other = rng.choice(files)
    path.write_bytes(other.read_bytes())
    return other != path


@_of_file
def gone(path: Path, rng: random.Random, files: list[Path]) -> bool:
    path.unlink()
    return True


@_of_file
def endless(path: Path, rng: random.Random, files: list[Path]) -> bool:
    """Sparse: it takes no room on the disk, and all there is in memory."""
    if rng.random() < 0.5:
        path.write_bytes(b"")
    os.truncate(path, rng.choice([3 << 30, 30 << 30, 1 << 40]))
    if rng.random() < 0.5 and path.name != "manifest.json":
        _declare(path, path.stat().st_size)
    return True


@_of_file
def link(path: Path, rng: random.Random, files: list[Path]) -> bool:
    """Out of its folder, to the same bytes or to others; to itself; to nowhere."""
    outside = path.parent.parent / f"outside-{path.name}"
    shutil.copy(path, outside)
    path.unlink()
    path.symlink_to(rng.choice([outside, "/etc/hostname", "/dev/zero", path.name, "nowhere", "."]))
    return True


@_of_file
def no_file(path: Path, rng: random.Random, files: list[Path]) -> bool:
    path.unlink()
    rng.choice([path.mkdir, lambda: os.mkfifo(path)])()
    return True


@_of_file
def under_a_long_name(path: Path, rng: random.Random, files: list[Path]) -> bool:
    """The manifest lists a name that no file system takes, or one outside of the folder."""
    manifest = path.parent / "manifest.json"
    if not manifest.is_file():
        return False
    data = json.loads(manifest.read_bytes())
    entry = data["files"].pop(path.name, {"size": 1, "sha256": "0" * 64})
    name = rng.choice(["x" * 5000, "../../etc/passwd", "/etc/passwd", "..", "", "a\0b", "a\nb"])
    if rng.random() < 0.5:
        data["files"][path.name] = entry
    data["files"][name] = entry
    manifest.write_text(json.dumps(data | {"seal": _digest(data)}))
    return True


@_of_file
def header_of_another_size(path: Path, rng: random.Random, files: list[Path]) -> bool:
    """A safetensors file whose header promises other tensors than there are."""
    if path.suffix != ".safetensors":
        return False
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = rng.choice(sorted(header.keys() - {"__metadata__"}))
    what = rng.randrange(6)
    if what == 0:
        header[name]["shape"] = rng.choice([[10**9, 10**9], [-1], [2**63], ["x"], [0]])
    elif what == 1:
        header[name]["data_offsets"] = rng.choice([[0, 1 << 40], [5, 3], [-1, 4], ["a", "b"], []])
    elif what == 2:
        header[name]["dtype"] = rng.choice(["F4", "F99", 5, None, "I64", "BOOL"])
    elif what == 3:
        header["x" * 100_000] = header.pop(name)
    elif what == 4:
        header = {f"t{i}": header[name] for i in range(20_000)}
    else:
        length = rng.choice([0, 1, len(data), 1 << 40, 2**64 - 1])
        path.write_bytes(struct.pack("<Q", length) + data[8:])
        seal(path.parent)
        return True
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    seal(path.parent)
    return True


def _declare(path: Path, size: int) -> None:
    """Let the manifest say that a file is of that size."""
    manifest = path.parent / "manifest.json"
    if manifest.is_file():
        data = json.loads(manifest.read_bytes())
        if path.name in data["files"]:
            data["files"][path.name]["size"] = size
            manifest.write_text(json.dumps(data | {"seal": _digest(data)}))


# --- JSON


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every list and mapping inside, with each of its keys."""
    for key in list(data) if isinstance(data, dict) else range(len(data)):
        yield data, key
        if isinstance(data[key], (dict, list)):
            yield from _places(data[key])


def _a_place(data: Any, rng: random.Random) -> tuple[Any, Any]:
    return rng.choice(list(_places(data)))


@_of_json
def value_of_another_type(data: Any, rng: random.Random) -> None:
    parent, key = _a_place(data, rng)
    parent[key] = rng.choice(ODD)


@_of_json
def key_gone(data: Any, rng: random.Random) -> None:
    parent, key = _a_place(data, rng)
    del parent[key]


@_of_json
def key_more(data: Any, rng: random.Random) -> None:
    parent, key = _a_place(data, rng)
    if isinstance(parent, dict):
        parent[rng.choice(["x", "", "\n", "k" * 100_000, "\ud800"])] = rng.choice(ODD)
    else:
        parent.insert(key, rng.choice(ODD))


@_of_json
def value_of_great_length(data: Any, rng: random.Random) -> None:
    parent, key = _a_place(data, rng)
    million: list[Any] = [
        ["x"] * 300_000,
        "x" * 3_000_000,
        [1.0] * 300_000,
        {str(i): i for i in range(99_999)},
    ]
    parent[key] = rng.choice(million)


@_of_json
def value_nested_deeply(data: Any, rng: random.Random) -> str:
    parent, key = _a_place(data, rng)
    parent[key] = "@"
    deep = rng.choice([50, 900, DEEP, 100_000])
    return json.dumps(data).replace('"@"', "[" * deep + "]" * deep, 1)


@_of_json
def value_that_json_has_not(data: Any, rng: random.Random) -> str:
    parent, key = _a_place(data, rng)
    parent[key] = "@"
    odd = rng.choice(["NaN", "-Infinity", "1e999", "9" * 5000, "0x10", "'x'", "1,", "01", "\0"])
    return json.dumps(data).replace('"@"', odd, 1)


@_of_json
def key_given_twice(data: Any, rng: random.Random) -> str:
    key = rng.choice(sorted(data))
    return json.dumps(data)[:-1] + f", {json.dumps(key)}: {json.dumps(rng.choice(ODD))}}}"


@_of_json
def size_beyond_all_memory(data: Any, rng: random.Random) -> None:
    """What a file asks for is to be held against what was saved, before any of it is made."""
    sizes = ["size", "layers", "hidden_size", "num_actions", "observation_shape", "hidden_sizes"]
    places = [place for place in _places(data) if place[1] in sizes] or list(_places(data))
    for parent, key in places:
        huge = rng.choice([20_000, 10**6, 10**9, 10**15, 2**62])
        parent[key] = [huge] if isinstance(parent[key], list) else huge
