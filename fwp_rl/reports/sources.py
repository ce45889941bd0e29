"""Where a report's runs lie: at the paths it is given, or right below them.

Nothing heavy is imported here: a path without a run is refused before torch is.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fwp_rl.config import ConfigError
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.files import read_json

__all__ = ["find_runs", "no_runs", "plain", "reason"]

_LONGEST_REASON = 300


def find_runs(
    paths: Sequence[str | Path],
) -> tuple[dict[Path, Mapping[str, str]], dict[str, str]]:
    """The run directories at these paths (runs, ablations, or folders that hold runs), each with
    its labels in an ablation; and what is none, with the reason.

    ConfigError where there is no run at all.
    """
    found: dict[Path, Mapping[str, str]] = {}
    skipped: dict[str, str] = {}
    seen: set[Path] = set()
    for given in map(Path, paths):
        try:
            expanded = list(_expand(given))
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            skipped[plain(str(given))] = reason(error, given)
            continue
        for path, labels in expanded:
            try:
                real = path.resolve()
                if real not in seen:
                    seen.add(real)
                    RunDirectory.open(path)
                    found[path] = labels
            except (OSError, RuntimeError) as error:
                skipped[plain(str(path))] = reason(error, path)
    if not found:
        raise no_runs(skipped)
    return found, skipped


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


def _expand(path: Path) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """Run directories at or right below a path, with an ablation's labels."""
    if RunDirectory.is_run(path) or not path.is_dir():
        yield path, {}
        return
    labels = _labels(path / "ablation.json")
    below = [p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    # an ablation's own folders, and what a report has written, are no runs
    below = [p for p in below if p.name not in ("configs", "logs", "report")]
    order = {name: place for place, name in enumerate(labels)}
    below.sort(key=lambda p: order.get(p.name, len(order)))
    if not below:
        yield path, {}
    for folder in below:
        yield folder, labels.get(folder.name, {})


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
