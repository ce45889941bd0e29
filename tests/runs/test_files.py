import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fwp_rl.runs.files import (
    CheckpointError,
    read_folder,
    read_json,
    remove,
    write_file,
    write_folder,
    write_json,
)

FILES = {"a.bin": bytes(range(256)) * 64, "b.json": b'{"x": 1}'}


def write(target: Path, files: dict[str, bytes] = FILES) -> None:
    write_folder(target, files, kind="test", about={"step": 3})


def read(target: Path) -> dict[str, bytes]:
    folder = read_folder(target, kind="test", expected=tuple(FILES))
    return {name: folder.read(name, most=1 << 20) for name in FILES}


def temporaries(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".tmp-")]


def fail_after(calls: int, function):
    """``function``, which raises OSError from the given call on."""
    count = 0

    def failing(*args, **kwargs):
        nonlocal count
        count += 1
        if count > calls:
            raise OSError(28, "No space left on device")
        return function(*args, **kwargs)

    return failing


def test_write_file_replaces_and_makes_folders(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_file(path, "one")
    write_file(path, "two – ä")
    assert path.read_text(encoding="utf-8") == "two – ä"
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_json(path, {"x": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_after(0, os.fsync))
        with pytest.raises(OSError, match="No space"):
            write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"x": 1}
    assert temporaries(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, {"x": -float("inf")}], {1j}])
def test_json_has_no_nan_and_no_foreign_types(tmp_path, value):
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        write_json(tmp_path / "x.json", value)
    assert list(tmp_path.iterdir()) == []


def test_modes_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "folder")
        write_file(tmp_path / "file", "x")
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*")}
    assert modes.pop("folder") == 0o750
    assert set(modes.values()) == {0o640}


def test_folder_round_trip_and_replacement(tmp_path):
    target = tmp_path / "folder"
    write(target)
    assert read(target) == FILES
    assert read_folder(target, kind="test", expected=()).about == {"step": 3}
    write(target, {"a.bin": b"new", "b.json": b"{}"})
    assert read(target) == {"a.bin": b"new", "b.json": b"{}"}
    assert os.listdir(tmp_path) == ["folder"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def punch_a_hole(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:8192] = bytes(4096)
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("a.bin", truncate),
        ("a.bin", flip_a_bit),
        ("a.bin", punch_a_hole),
        ("a.bin", empty),
        ("a.bin", Path.unlink),
        ("b.json", flip_a_bit),
        ("manifest.json", truncate),
        ("manifest.json", empty),
        ("manifest.json", Path.unlink),
    ],
)
def test_damage_is_found_and_the_file_named(tmp_path, name, damage):
    target = tmp_path / "folder"
    write(target)
    if (name, damage) == ("manifest.json", truncate):  # its last byte is a newline
        damage(target / name)
    damage(target / name)
    with pytest.raises(CheckpointError, match=name):
        read(target)


def edit_manifest(target: Path, **changes: object) -> None:
    """As a folder of schema 1, which has no seal, but for the changes."""
    path = target / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["seal"]
    path.write_text(json.dumps(manifest | {"schema": 1} | changes))


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "x/../../secret", "..", "", "a\\b", "x" * 300]
)
def test_no_path_leaves_the_folder(tmp_path, name):
    secret = tmp_path / "secret"
    secret.write_text("s")
    target = tmp_path / "folder"
    write(target)
    files = json.loads((target / "manifest.json").read_text())["files"]
    edit_manifest(target, files=files | {name: files["a.bin"]})
    with pytest.raises(CheckpointError, match="expected a plain file name") as error:
        read(target)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["a.bin", "manifest.json"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, name):
    target = tmp_path / "folder"
    write(target)
    moved = (target / name).rename(tmp_path / "elsewhere")
    (target / name).symlink_to(moved)
    with pytest.raises(CheckpointError, match=f"{name}: is a link out of its folder"):
        read(target)
    (target / name).unlink()
    moved.rename(target / "inside")
    (target / name).symlink_to("inside")
    assert read(target) == FILES
    (tmp_path / "linked").symlink_to(target)  # the folder itself may be one
    assert read(tmp_path / "linked") == FILES


@pytest.mark.parametrize("name", ["a.bin", "manifest.json"])
def test_what_is_no_file_is_not_waited_for(tmp_path, name):
    target = tmp_path / "folder"
    write(target)
    (target / name).unlink()
    os.mkfifo(target / name)
    with pytest.raises(CheckpointError, match=f"{name}: is "):
        read(target)
    with pytest.raises(CheckpointError, match="is no file"):
        read_json(target / name)


def test_no_file_is_read_further_than_it_may_be_long(tmp_path):
    target = tmp_path / "folder"
    write(target)
    os.truncate(target / "manifest.json", 1 << 40)  # takes no room, but as bytes it would
    with pytest.raises(CheckpointError, match="has more than 4,194,304 bytes"):
        read(target)
    with pytest.raises(CheckpointError, match="has more than 4,194,304 bytes"):
        read_json(target / "manifest.json")
    write(target)
    os.truncate(target / "a.bin", 1 << 40)
    with pytest.raises(CheckpointError, match="has 1099511627776 bytes, the manifest says 16384"):
        read(target)
    edit_manifest(target, files={n: {"size": 1 << 40, "sha256": "0" * 64} for n in FILES})
    with pytest.raises(CheckpointError, match="expected at most 1,048,576"):
        read(target)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 3}, "reads up to schema 2: upgrade"),
        ({"schema": 3, "fwp_rl": "9" * 10_000}, "upgrade"),
        ({"schema": 10**30}, "reads up to schema 2: upgrade"),
        ({"schema": None}, "schema None"),
        ({"schema": True}, "schema True, expected a number"),
        ({"schema": "1"}, "schema '1', expected a number"),
        ({"schema": 2}, "is damaged: its seal"),
        ({"seal": "0" * 64}, "is damaged: its seal"),
        ({"seal": None}, "is damaged: its seal"),
        ({"kind": "other"}, "'other' folder, expected 'test'"),
        ({"kind": {"a": ["b"] * 1000}}, "folder, expected 'test'"),
        ({"files": {}}, "does not list a.bin, b.json"),
        ({"files": None}, "files: got None, expected"),
        ({"files": {"a.bin": None, "b.json": None}}, r"files\.a\.bin: got None"),
        (
            {"files": {"a.bin": {"size": True, "sha256": "0" * 64}}},
            r"files\.a\.bin\.size: got True",
        ),
        ({"files": {"a.bin": {"size": 3, "sha256": "A" * 64}}}, r"files\.a\.bin\.sha256: got"),
        ({"about": [1]}, "about: got"),
    ],
)
def test_foreign_manifests_are_refused(tmp_path, changes, message):
    target = tmp_path / "folder"
    write(target)
    edit_manifest(target)
    assert read(target) == FILES
    edit_manifest_again = json.loads((target / "manifest.json").read_text()) | changes
    (target / "manifest.json").write_text(json.dumps(edit_manifest_again))
    with pytest.raises(CheckpointError, match=message) as error:
        read(target)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ("[1]", "holds a JSON list, expected an object"),
        ('{"x": NaN}', "NaN is no finite number"),
        ('{"x": -Infinity}', "is no finite number"),
        ('{"x": 1e999}', "1e999 is no finite number"),
        ('{"x": %s}' % ("9" * 5000), "is not valid JSON"),
        ('{"x": %s}' % ("[" * 100 + "]" * 100), "nested too deeply"),
        ('{"x": %s' % ('{"a":[' * 100_000), "nested too deeply"),
        ("\xff", "is not valid JSON"),
    ],
)
def test_json_that_is_none_of_ours(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=message) as error:
        read_json(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_files_that_are_not_listed_are_ignored(tmp_path):
    target = tmp_path / "folder"
    write(target)
    (target / "extra.pt").write_bytes(b"anything")
    assert read(target) == FILES


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_failed_replacement_leaves_one_whole_folder(tmp_path, monkeypatch, renames):
    """The renames are: old folder away, new folder in."""
    target, new = tmp_path / "folder", {"a.bin": b"new", "b.json": b"{}"}
    write(target)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail_after(renames, os.rename))
        with pytest.raises(OSError, match="No space"):
            write(target, new)
    assert read(target) == (new if renames == 2 else FILES)
    write(target, new)
    assert read(target) == new
    assert os.listdir(tmp_path) == ["folder"]


def test_leftovers_of_dead_processes_are_removed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead = [f".tmp-{process.pid}-00c0ffee7", f".tmp-{os.getpid()}-00c0ffee7"]
    alive = [f".tmp-{os.getppid()}-00c0ffee7", ".tmp-somebody-elses"]
    for name in dead + alive:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    write(tmp_path / "folder")
    assert sorted(temporaries(tmp_path)) == sorted(alive)


def test_remove(tmp_path):
    write(tmp_path / "folder")
    remove(tmp_path / "folder")
    remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_file_clears_away_what_a_dead_process_left(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                           capture_output=True, text=True, check=True)  # fmt: skip
    dead = tmp_path / f".tmp-{child.stdout.strip()}-0123456789"
    dead.touch()
    mine = tmp_path / "notes.tmp-1"
    mine.touch()
    write_file(tmp_path / "result.json", "{}")
    assert {path.name for path in tmp_path.iterdir()} == {"result.json", mine.name}
