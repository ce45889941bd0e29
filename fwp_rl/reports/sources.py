"""Where a report's runs lie: at the paths it is given, or right below them.

Nothing heavy is imported here: a path without a run is refused before torch is.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fwp_rl.config import ConfigError
from fwp_rl.runs.directory import RunDirectory, RunError
from fwp_rl.runs.files import parse_json

__all__ = ["find_runs", "no_runs", "reason"]


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
        for path, labels in _expand(given):
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            try:
                RunDirectory.open(path)
            except (RunError, OSError) as error:
                skipped[str(path)] = reason(error, path)
            else:
                found[path] = labels
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
    """What an error says of a path, to stand beside the path."""
    return str(error).removeprefix(f"{path}: ") or type(error).__name__


def _expand(path: Path) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """Run directories at or right below a path, with an ablation's labels."""
    if RunDirectory.is_run(path) or not path.is_dir():
        yield path, {}
        return
    labels: dict[str, Mapping[str, str]] = {}
    ablation = path / "ablation.json"
    if ablation.is_file():
        try:
            cells = parse_json(ablation.read_bytes(), ablation)["cells"]
            labels = {cell["run"]: cell["labels"] for cell in cells}
        except (OSError, RuntimeError, KeyError, TypeError):
            labels = {}  # damaged: the runs speak for themselves
    below = [p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    # an ablation's own folders, and what a report has written, are no runs
    below = [p for p in below if p.name not in ("configs", "logs", "report")]
    if labels:
        below.sort(key=lambda p: list(labels).index(p.name) if p.name in labels else len(labels))
    if not below:
        yield path, {}
    for folder in below:
        yield folder, labels.get(folder.name, {})
