"""Which runs a report finds."""

import json
from pathlib import Path

import pytest

from fwp_rl.config import ConfigError
from fwp_rl.reports import sources
from fwp_rl.reports.sources import find_runs, named_path


def a_run(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").touch()
    return path


def test_runs_lie_at_any_depth_below_a_folder(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / name) for name in ("a", "b/c", "b/d/e/f", "logs-of-mine/g")]
    a_run(tmp_path / "a" / "inside")  # a run's own folders are its own
    a_run(tmp_path / ".hidden")
    (tmp_path / "b" / "d" / "pictures" / "more").mkdir(parents=True)
    found, skipped = find_runs([tmp_path])
    assert list(found) == runs
    assert skipped == {str(tmp_path / "b" / "d" / "pictures"): "holds no run, at any depth"}


def test_every_grid_below_a_folder_keeps_its_labels(tmp_path: Path) -> None:
    grid = tmp_path / "deep" / "grid"
    for name in ("one", "two", "configs", "logs"):
        a_run(grid / name)
    cells = [{"run": name, "labels": {"core": name}} for name in ("two", "one")]
    (grid / "ablation.json").write_text(json.dumps({"cells": cells}))
    found, _ = find_runs([f"mine={tmp_path}"])
    assert {path.name: source.labels for path, source in found.items()} == {
        "two": {"core": "two"},
        "one": {"core": "one"},
    }
    assert list(found) == [grid / "two", grid / "one"], "in the order of the grid"
    assert {source.name for source in found.values()} == {"mine"}


def test_links_may_lead_in_a_circle(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a" / "run")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "z").symlink_to(run)
    found, skipped = find_runs([tmp_path, run])
    assert [path.resolve() for path in found] == [run.resolve()]
    assert skipped == {}


def test_a_walk_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (tmp_path / str(number)).mkdir()
    monkeypatch.setattr(sources, "_MOST_FOLDERS", 3)
    with pytest.raises(ConfigError, match="more than 3 folders were looked at"):
        find_runs([tmp_path])


@pytest.mark.parametrize(
    ("given", "name", "path"),
    [
        ("a=b", "a", "b"),
        ("a b=/c=d", "a b", "/c=d"),
        ("a/b=c", None, "a/b=c"),
        ("=a", None, "=a"),
        ("a=", None, "a="),
        ("a\nb=c", "a b", "c"),
    ],
)
def test_a_name_and_a_path(given: str, name: str | None, path: str) -> None:
    assert named_path(given) == (name, Path(path))


def test_a_path_that_exists_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    assert named_path("a=b") == (None, Path("a=b"))
