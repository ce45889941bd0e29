"""Where a report's runs lie: at the paths it is given, or at any depth below them.

Nothing heavy is imported here: a path without a run is refused before torch is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fwp_rl.config import ConfigError
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.files import read_json

__all__ = ["Source", "find_runs", "named_path", "no_runs", "plain", "reason"]

_LONGEST_REASON = 300
_DEEPEST = 32
"""Levels below a given path that are looked at."""
_MOST_FOLDERS = 50_000
"""Looked at below all paths together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What is known of a run before it is read.

    name    that its path was given with, NAME=PATH
    labels  axis → label, where it is a cell of an ablation
    """

    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def find_runs(paths: Sequence[str | Path]) -> tuple[dict[Path, Source], dict[str, str]]:
    """The run directories at these paths (runs, ablations, or folders that hold runs at any depth,
    each perhaps as NAME=PATH); and what is none, with the reason.

    ConfigError where there is no run at all, or where too many folders lie below the paths.
    """
    walk = _Walk()
    for given in paths:
        name, path = named_path(given)
        if walk.enter(path, Source(name=name), depth=0) is False:
            walk.skip(path, "holds no run, at any depth")
    if not walk.found:
        raise no_runs(walk.skipped)
    return walk.found, walk.skipped


def named_path(given: str | Path) -> tuple[str | None, Path]:
    """NAME and PATH of ``NAME=PATH``; None and the path of anything else. What exists as it is
    spelled is a path."""
    name, equals, path = str(given).partition("=")
    if equals and name and path and "/" not in name and not Path(given).exists():
        return plain(name), Path(path)
    return None, Path(given)


def no_runs(skipped: Mapping[str, str]) -> ConfigError:
    """The refusal of a report on nothing.

    skipped  path → why it is no run
    """
    why = "; ".join(f"{path}: {reason}" for path, reason in skipped.items()) or "nothing there"
    return ConfigError(f"no run to report on: {why}")


def reason(error: Exception, path: Path) -> str:
    """What an error says of a path, to stand beside the path, in one line."""
    if isinstance(error, OSError):
        said = error.strerror or ""
    elif isinstance(error, (ConfigError, RuntimeError)):  # they say all in one sentence
        said = str(error).removeprefix(f"{path}: ")
    else:
        said = f"{type(error).__name__}: {error}"
    said = plain(said) or type(error).__name__
    return said if len(said) <= _LONGEST_REASON else f"{said[:_LONGEST_REASON]} ..."


def plain(text: str) -> str:
    """A name from elsewhere as one line that anything can show: what is no printable character of
    UTF-8 becomes a space or a question mark."""
    valid = text.encode("utf-8", "replace").decode()
    return "".join(letter if letter.isprintable() else " " for letter in valid)


class _Walk:
    """What was found on the way down from some paths, and where it has been: a link may lead in a
    circle."""

    def __init__(self) -> None:
        self.found: dict[Path, Source] = {}
        self.skipped: dict[str, str] = {}
        self._been: set[Path] = set()

    def skip(self, path: Path, why: str) -> None:
        self.skipped[plain(str(path))] = why

    def enter(self, path: Path, source: Source, *, depth: int) -> bool | None:
        """Whether there is a run at or below the path; None where that has been told already."""
        try:
            real = path.resolve()
            if real in self._been:
                return None
            self._been.add(real)
            if RunDirectory.is_run(path) or not path.is_dir():
                self.found[RunDirectory.open(path).path] = source
                return True
            below = _below(path, source) if depth < _DEEPEST else {}
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            self.skip(path, reason(error, path))
            return None
        if len(self._been) > _MOST_FOLDERS:
            raise ConfigError(
                f"{plain(str(path))}: more than {_MOST_FOLDERS:,} folders were looked at by here; "
                "name folders nearer to the runs"
            )
        inside = {folder: self.enter(folder, its, depth=depth + 1) for folder, its in below.items()}
        if True not in inside.values():
            return False
        for folder, has_runs in inside.items():
            if has_runs is False:
                self.skip(folder, "holds no run, at any depth")
        return True


def _below(path: Path, source: Source) -> dict[Path, Source]:
    """The folders right below a path, an ablation's cells in its order."""
    cells = _labels(path / "ablation.json")
    # an ablation's own folders, and what a report has written, are no runs
    own = ("configs", "logs", "report")
    folders = [p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    order = {name: place for place, name in enumerate(cells)}
    folders.sort(key=lambda p: order.get(p.name, len(order)))
    return {
        folder: Source(name=source.name, labels=cells.get(folder.name, {}))
        for folder in folders
        if folder.name not in own
    }


def _labels(file: Path) -> dict[str, dict[str, str]]:
    """Run directory → axis → label, as an ablation.json says. Where it cannot be read, the runs
    speak for themselves."""
    try:
        cells = read_json(file)["cells"]
        return {
            cell["run"]: {plain(axis): plain(label) for axis, label in cell["labels"].items()}
            for cell in cells
        }
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError):
        return {}
