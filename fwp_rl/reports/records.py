"""What a report knows of each run, read from its directory.

The score of a run is ``fwp_rl.runs.results.score``: of its last checkpoint, never the best of
several. A directory that is no run, or that is damaged, is named and left out.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fwp_rl.ablation.layout import says_little
from fwp_rl.cores import CORES
from fwp_rl.reports.sources import find_runs, no_runs, reason
from fwp_rl.runs.config import TrainConfig
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.metrics import read_metrics
from fwp_rl.runs.presets import experiment, load_preset
from fwp_rl.runs.results import Score, paper_evaluation, score

__all__ = ["Record", "Records", "read_records"]

_TASK_AXES = re.compile(r"task|game|games|preset|env(\..*)?")
_VIDEOS = (".mp4", ".gif")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One run.

    label       what is compared: the core, or the labels of an ablation's axes
    task        what it was trained on
    rows        of metrics.jsonl
    score       None where its last checkpoint was not evaluated
    paper       the last checkpoint's newest evaluation of single lives, as the papers' code counts;
                None without one
    """

    path: Path
    config: TrainConfig
    status: Mapping[str, Any]
    label: str
    task: str
    rows: Sequence[Mapping[str, float]]
    score: Score | None
    paper: Mapping[str, Any] | None
    video: Path | None

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def seconds(self) -> float:
        """For which it has trained."""
        return float(self.rows[-1]["time"]) if self.rows else 0.0

    @property
    def step(self) -> int:
        return int(self.rows[-1]["step"]) if self.rows else 0


@dataclass(frozen=True, kw_only=True)
class Records:
    """The runs, in the order in which they were found, and what was left out and why."""

    runs: list[Record]
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(run.label for run in self.runs))

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(run.task for run in self.runs))

    def of(self, label: str, task: str | None = None) -> list[Record]:
        """The runs of a label, of one task or all."""
        return [r for r in self.runs if r.label == label and task in (None, r.task)]


def read_records(paths: Sequence[str | Path]) -> Records:
    """The runs at these paths: run directories, ablations, or folders that hold runs.

    ConfigError where nothing is left to report on.
    """
    found, skipped = find_runs(paths)
    runs = []
    for path, labels in found.items():
        try:
            runs.append(_read(path, labels))
        # whatever is wrong with one directory, the others are reported on
        except Exception as error:
            skipped[str(path)] = reason(error, path)
    if not runs:
        raise no_runs(skipped)
    return Records(runs=_told_apart(runs), skipped=skipped)


def _read(path: Path, labels: Mapping[str, str]) -> Record:
    run = RunDirectory.open(path)
    config = load_preset(run.config)
    videos = sorted(p for p in (path / "videos").glob("*") if p.suffix in _VIDEOS)
    task = config.env.spec().name.rpartition("/")[2]
    compared = [
        _in_words(axis, label)
        for axis, label in labels.items()
        if axis != "seed" and not _TASK_AXES.fullmatch(axis)
    ]
    return Record(
        path=path,
        config=config,
        status=run.read_status(),
        label=", ".join(compared) or CORES.name_of(type(config.core)),
        task=labels.get("task", task),
        rows=read_metrics(run.metrics) if run.metrics.is_file() else [],
        score=score(run),
        paper=paper_evaluation(run),
        video=videos[-1] if videos else None,
    )


def _in_words(axis: str, label: str) -> str:
    """The label, with its axis where it would say nothing alone: ``heads 2``."""
    return f"{axis.rpartition('.')[2]} {label}" if says_little(label) else label


def _told_apart(runs: list[Record]) -> list[Record]:
    """Runs of one label and task whose configs differ get labels that say in what."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for run in runs:
        groups.setdefault((run.label, run.task), []).append(run)
    suffix: dict[Path, str] = {}
    for group in groups.values():
        configs = {run.path: experiment(run.config, without=("seed",)) for run in group}
        keys = list(dict.fromkeys(key for config in configs.values() for key in config))
        differing = [key for key in keys if len({repr(c.get(key)) for c in configs.values()}) > 1]
        for path, config in configs.items():
            words = [f"{key.removeprefix('core.')} {config.get(key)}" for key in differing]
            suffix[path] = f" ({', '.join(words)})" if words else ""
    return [replace(run, label=run.label + suffix[run.path]) for run in runs]
