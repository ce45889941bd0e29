"""What a report knows of each run, read from its directory.

The score of a run is ``fwp_rl.runs.results.score``: of its last checkpoint, never the best of
several. A directory that is no run, or that cannot be reported on, is named and left out. What
another hand has put into a run's files is taken for text and numbers, or not at all.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fwp_rl.cores.cost import Cost, cost
from fwp_rl.envs.atari import AtariConfig, is_game, protocol_in_words
from fwp_rl.reports.groups import LONGEST_LABEL, group
from fwp_rl.reports.plots import CURVE_POINTS, RETURN, VALIDATION, Floats, curve_points
from fwp_rl.reports.sources import Source, find_runs, no_runs, plain, reason
from fwp_rl.runs.config import RunConfig, TrainConfig
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.metrics import read_metrics
from fwp_rl.runs.presets import experiment, load_preset
from fwp_rl.runs.results import paper_evaluation, score, task_result
from fwp_rl.runs.schema import TaskResult

__all__ = ["Evaluation", "PaperEvaluation", "Record", "Records", "Size", "read_records"]

_FILMS = {".mp4": (4, b"ftyp"), ".gif": (0, b"GIF8")}
"""Suffix → what stands in such a file, and where."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A run's score.

    mean      mean return, or what a sequence task measures
    games     None of a sequence task
    measure   what is measured where it is not the return
    interval  of the mean over games, 95 %; None where there is none
    success   share of games that reached the goal; None for a task without one
    protocol  of play, in words; None for a task with one set of rules
    actions   how they were chosen, as the file says; None of a sequence task
    """

    mean: float
    games: int | None
    step: int
    measure: str | None
    interval: tuple[float, float] | None
    success: float | None
    protocol: str | None
    actions: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperEvaluation:
    """Single lives, as the papers' code counts them: the mean of the runs' means, and their
    standard deviation."""

    mean: float
    std: float
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Parameters of the whole network, and what its core costs; None where it has none."""

    parameters: int
    core: Cost | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One run.

    state       as ``RunDirectory.state`` has it
    facts       versions, commit and machine, as name and value
    label       what is compared: ``fwp_rl.reports.groups``
    given       NAME, where its path was given as NAME=PATH
    axes        its labels in an ablation
    task        what it was trained on
    step        how far it came, and for how many ``seconds`` it trained
    curve       steps and returns of recent games, thinned where there are many
    size        None where it cannot be told before the run has ended
    score       None where its last checkpoint was not evaluated
    paper       None where its last checkpoint was not evaluated as the papers do
    result      of a sequence task, once it has ended
    """

    path: Path
    config: RunConfig
    size: Size | None
    state: str
    facts: Sequence[tuple[str, str]]
    label: str
    given: str | None
    axes: Mapping[str, str]
    task: str
    step: int
    seconds: float
    curve: tuple[Floats, Floats]
    score: Evaluation | None
    paper: PaperEvaluation | None
    result: TaskResult | None
    video: Path | None

    @property
    def seed(self) -> int:
        return self.config.seed


@dataclass(frozen=True, kw_only=True)
class Records:
    """The runs, in the order in which they were found, what was left out and why, and what has to
    be said of the groups that they make."""

    runs: list[Record]
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(run.label for run in self.runs))

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(run.task for run in self.runs))

    def axes(self) -> dict[str, tuple[str, str]]:
        """Task → what the steps and the values of its curves are."""
        return {
            run.task: ("environment steps", "return of recent games")
            if isinstance(run.config, TrainConfig)
            else ("gradient steps", "measure on the validation split")
            for run in self.runs
        }

    def of(self, label: str, task: str | None = None) -> list[Record]:
        """The runs of a label, of one task or all."""
        return [r for r in self.runs if r.label == label and task in (None, r.task)]


def read_records(paths: Sequence[str | Path], *, by: Sequence[str] | None = None) -> Records:
    """The runs at these paths: run directories, ablations, or folders that hold runs at any depth,
    each perhaps as NAME=PATH.

    by  fields of configs that make the groups; by default the core, an ablation's labels or NAME

    ConfigError where nothing is left to report on, or no run has such a field.
    """
    found, skipped = find_runs(paths)
    runs = []
    sizes: dict[str, Size | None] = {}
    for path, source in found.items():
        try:
            runs.append(_read(path, source, sizes))
        # whatever is wrong with one directory, the others are reported on
        except Exception as error:
            skipped[plain(str(path))] = reason(error, path)
    if not runs:
        raise no_runs(skipped)
    labels, notes = group(runs, by)
    named = [replace(run, label=label) for run, label in zip(runs, labels, strict=True)]
    return Records(runs=named, skipped=skipped, notes=notes)


def _read(path: Path, source: Source, sizes: dict[str, Size | None]) -> Record:
    """sizes  of the networks that earlier runs have: to build one takes a while"""
    run = RunDirectory.open(path)
    config = load_preset(run.config)
    metric = RETURN if isinstance(config, TrainConfig) else VALIDATION
    rows = read_metrics(run.metrics, names=(metric,), limit=CURVE_POINTS)
    times = [row["time"] for row in rows if math.isfinite(row.get("time", math.nan))]
    network = repr(experiment(config, without=("seed", "total_steps")))
    if network not in sizes:
        sizes[network] = _size(config, run)
    return Record(
        path=path,
        config=config,
        size=sizes[network],
        state=run.state(),
        facts=_facts(run),
        label="",
        given=source.name,
        axes=source.labels,
        task=_task(config, source)[:LONGEST_LABEL],
        step=int(rows[-1]["step"]) if rows else 0,
        seconds=times[-1] if times else 0.0,
        curve=curve_points(rows, metric),
        score=_score(run),
        paper=_paper(run),
        result=task_result(run) if run.result.is_file() else None,
        video=_film(path),
    )


def _task(config: RunConfig, source: Source) -> str:
    """As an ablation calls it. A game has one name, however it is spelled there."""
    subject = config.subject()
    label = source.labels.get("task", subject)
    atari = isinstance(config, TrainConfig) and isinstance(config.env, AtariConfig)
    return subject if atari and is_game(label, subject) else label


def _size(config: RunConfig, run: RunDirectory) -> Size | None:
    if not isinstance(config, TrainConfig):
        result = task_result(run)
        if result is None:
            return None
        inputs = result.size.core_inputs
        core = None if inputs is None else cost(config.core, inputs)
        return Size(parameters=result.size.parameters, core=core)
    policy = config.build_policy()
    return Size(
        parameters=sum(parameter.numel() for parameter in policy.parameters()),
        core=cost(config.core, policy.core.input_size),
    )


def _facts(run: RunDirectory) -> list[tuple[str, str]]:
    try:
        status = run.read_status()
    except (OSError, RuntimeError):
        status = {}
    versions = status.get("versions")
    facts = dict(versions) if isinstance(versions, dict) else {}
    facts |= {"commit": status.get("commit"), "machine": status.get("host") or "unknown"}
    return [(plain(name), plain(value)) for name, value in facts.items() if isinstance(value, str)]


def _score(run: RunDirectory) -> Evaluation | None:
    found = score(run)
    if found is None:
        return None
    if found.games is None:
        return Evaluation(
            mean=found.mean,
            games=None,
            step=found.step,
            measure=plain(found.result["measure"]),
            interval=None,
            success=None,
            protocol=None,
            actions=None,
        )
    summary, environment = found.result["summary"], found.result.get("environment")
    success = summary.get("success")
    rate = success.get("rate") if isinstance(success, dict) else None
    return Evaluation(
        mean=found.mean,
        games=found.games,
        step=found.step,
        measure=None,
        interval=_pair(summary.get("interval")),
        success=rate if _is_number(rate) else None,
        protocol=_protocol(environment) if isinstance(environment, dict) else None,
        actions=plain(found.result["protocol"]["actions"]),
    )


def _paper(run: RunDirectory) -> PaperEvaluation | None:
    found = paper_evaluation(run)
    if found is None:
        return None
    summary, step = found["summary"], found.get("step")
    return PaperEvaluation(
        mean=float(summary["mean"]),
        std=float(summary["std_of_run_means"]),
        step=step if type(step) is int else 0,
    )


def _protocol(environment: dict[str, Any]) -> str | None:
    try:
        return plain(protocol_in_words(environment))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _pair(value: Any) -> tuple[float, float] | None:
    if isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)):
        return float(value[0]), float(value[1])
    return None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # no NaN, and a float can hold it


def _film(path: Path) -> Path | None:
    """The run's last film. A link that leads out of the run directory is none: the page goes to
    others, and must not take along what lies elsewhere."""
    home = path.resolve()
    films = []
    for file in sorted((path / "videos").glob("*")):
        place, mark = _FILMS.get(file.suffix, (0, b""))
        if mark and file.is_file() and file.resolve().is_relative_to(home):
            with file.open("rb") as opened:
                if opened.read(16)[place:].startswith(mark):
                    films.append(file)
    return films[-1] if films else None
