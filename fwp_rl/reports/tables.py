"""The tables of a report: rows of text, for the page and for CSV."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fwp_rl.cores.cost import Cost
from fwp_rl.envs.atari.scores import PUBLISHED, Published
from fwp_rl.reports.records import Evaluation, Record, Records, Size
from fwp_rl.reports.sources import plain
from fwp_rl.reports.statistics import normalized_score
from fwp_rl.runs.config import AGENTS, TrainConfig
from fwp_rl.runs.presets import experiment
from fwp_rl.terminal import format_seconds

__all__ = ["Cell", "Table", "costs", "differences", "published", "relative", "runs", "scores"]
__all__ += ["what_was_run"]


@dataclass(frozen=True, slots=True)
class Cell:
    """Text, right-aligned where it is a number; a link where it has an address."""

    text: str
    number: bool = False
    link: str | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """``name`` of its CSV file, title, a sentence, and its rows."""

    name: str
    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def what_was_run(records: Records) -> Table:
    """Agents, protocols, versions and machines, each with the number of runs it holds for."""
    facts: dict[tuple[str, str], int] = {}

    def add(name: str, value: Any) -> None:
        facts[name, str(value)] = facts.get((name, str(value)), 0) + 1

    for run in records.runs:
        add("agent", AGENTS.name_of(type(run.config)))
        add("steps", f"{run.config.total_steps:,}")
        add("state", run.state)
        if run.score is not None:
            if run.score.protocol is not None:
                add("protocol of play", run.score.protocol)
            add("score", _meaning(run.score))
        for name, value in run.facts:
            add(name, value)
    total = len(records.runs)
    rows = [
        [Cell(name), Cell(value), Cell("all" if count == total else str(count), number=True)]
        for (name, value), count in sorted(facts.items(), key=lambda item: _order(item[0][0]))
    ]
    return Table(
        name="what_was_run",
        title="What was run",
        caption=f"{total} runs: {len(records.labels)} variants on {len(records.tasks)} tasks.",
        columns=("", "value", "runs"),
        rows=rows,
    )


def _order(name: str) -> int:
    first = ("agent", "steps", "state", "protocol of play", "score")
    return first.index(name) if name in first else len(first)


def differences(records: Records) -> Table:
    """The fields of the configs in which variants or tasks differ."""
    groups: dict[tuple[str, str], Record] = {}
    for run in records.runs:
        groups.setdefault((run.task, run.label), run)
    configs = {key: experiment(run.config, without=("seed",)) for key, run in groups.items()}
    fields = list(dict.fromkeys(name for config in configs.values() for name in config))
    differing = [
        name for name in fields if len({repr(config.get(name)) for config in configs.values()}) > 1
    ]
    return Table(
        name="differences",
        title="In what the configs differ",
        caption="Fields that are the same everywhere are left out; so are seeds and folders.",
        columns=("task", "variant", *differing),
        rows=[
            [Cell(task), Cell(label), *(_value(config, name) for name in differing)]
            for (task, label), config in configs.items()
        ],
    )


def _value(config: dict[str, Any], name: str) -> Cell:
    if name not in config:
        return Cell("")
    value = config[name]
    return Cell(str(value), number=isinstance(value, (int, float)) and value is not True)


def scores(records: Records) -> Table:
    """Mean of the final evaluations, raw and normalised, for each task and variant."""
    rows = []
    for task in records.tasks:
        for label in records.labels:
            group = [(run, run.score) for run in records.of(label, task) if run.score is not None]
            if not group:
                continue
            values = [score.mean for _, score in group]
            normalized = [normalized_score(run.config, score.mean) for run, score in group]
            known = [value for value in normalized if value is not None]
            success = [score.success for _, score in group if score.success is not None]
            rows.append(
                [
                    Cell(task),
                    Cell(label),
                    Cell(str(len(values)), number=True),
                    Cell(f"{statistics.fmean(values):.2f}", number=True),
                    Cell(f"{min(values):.2f} to {max(values):.2f}", number=True),
                    Cell(_span([score.games or 0 for _, score in group]), number=True),
                    Cell(_span([score.step for _, score in group]), number=True),
                    Cell(f"{statistics.fmean(known):.3f}" if known else "", number=True),
                    Cell(f"{statistics.fmean(success):.1%}" if success else "", number=True),
                ]
            )
    return Table(
        name="scores",
        title="Scores",
        caption="The last checkpoint's evaluation, never the best of several: mean over seeds, and "
        "from the lowest seed to the highest; how many games each was evaluated on, and at which "
        "step. Normalised: on Atari 0 is a random player and 1 a "
        "human, elsewhere they are the bounds that the task states.",
        columns=(
            *("task", "variant", "seeds", "mean return", "range", "games", "at step"),
            *("normalised", "success"),
        ),
        rows=rows,
    )


def _meaning(score: Evaluation) -> str:
    if score.games is None:
        return f"{score.measure} on the test split, weights of the best validation"
    return f"mean of {score.games} whole games, {score.actions} actions, last checkpoint"


def _span(numbers: Sequence[int]) -> str:
    """``30``, or ``30 to 200``."""
    low, high = f"{min(numbers):,}", f"{max(numbers):,}"
    return low if low == high else f"{low} to {high}"


def published(records: Records) -> Table | None:
    """Published scores beside ours, where both were made by the papers' protocol; None where no run
    was evaluated by it."""
    rows = []
    for run in records.runs:
        if run.paper is None or not isinstance(run.config, TrainConfig):
            continue
        task = run.config.env.spec().name
        theirs: list[Published | None] = [entry for entry in PUBLISHED if entry.task == task]
        ours = f"{run.paper.mean:.1f} ± {run.paper.std:.1f}"
        for entry in theirs or [None]:
            rows.append(
                [
                    Cell(run.task),
                    Cell(run.label),
                    Cell(str(run.seed), number=True),
                    Cell(f"{run.paper.step:,}", number=True),
                    Cell(ours, number=True),
                    Cell("" if entry is None else f"{entry.score:,.0f}", number=True),
                    Cell("none found" if entry is None else entry.in_words()),
                ]
            )
    if not rows:
        return None
    return Table(
        name="published",
        title="Beside published scores",
        caption="All by the protocol of the fast weight papers: single lives, greedy actions, mean "
        "and standard deviation of the means of 5 runs of 30 lives.",
        columns=("task", "variant", "seed", "steps", "ours", "published", "of"),
        rows=rows,
    )


def costs(records: Records) -> Table:
    """What each variant costs: counts of its core, measured speed, hours."""
    rows = []
    for task in records.tasks:
        for label in records.labels:
            group = records.of(label, task)
            if not group:
                continue
            size = next((run.size for run in group if run.size is not None), None)
            speeds = [run.step / run.seconds for run in group if run.seconds]
            rows.append(
                [
                    Cell(task),
                    Cell(label),
                    Cell("" if size is None else f"{size.parameters:,}", number=True),
                    *(Cell(count, number=True) for count in _counts(size)),
                    Cell(f"{statistics.median(speeds):,.0f}" if speeds else "", number=True),
                    Cell(format_seconds(sum(run.seconds for run in group)), number=True),
                ]
            )
    return Table(
        name="costs",
        title="Costs",
        caption="State: floats carried from step to step for each environment. Multiply-adds: of "
        "one step of one environment. Steps per second are those of these runs on their machine, "
        "with whatever ran beside them.",
        columns=(
            *("task", "variant", "parameters", "core's parameters", "state", "multiply-adds"),
            *("steps/s", "training, all seeds"),
        ),
        rows=rows,
    )


def _counts(size: Size | None) -> list[str]:
    """Of the core; empty where they are not known."""
    core = None if size is None else size.core
    return [""] * len(Cost._fields) if core is None else [f"{count:,}" for count in core]


def runs(records: Records, folder: Path) -> Table:
    """Every run, with a link to its directory."""
    rows = []
    for run in records.runs:
        score = run.score
        interval = None if score is None else score.interval
        rows.append(
            [
                Cell(run.task),
                Cell(run.label),
                Cell(str(run.seed), number=True),
                Cell(f"{run.step:,}", number=True),
                Cell("" if score is None else f"{score.mean:.2f}", number=True),
                Cell("" if score is None else str(score.games or ""), number=True),
                Cell("" if score is None else f"{score.step:,}", number=True),
                Cell("" if interval is None else "{:.2f} to {:.2f}".format(*interval), number=True),
                Cell(run.state),
                Cell(plain(run.path.name), link=relative(run.path, folder)),
            ]
        )
    return Table(
        name="runs",
        title="Runs",
        caption="The interval is over the games of one evaluation: it says nothing about seeds. "
        "Killed: it says that it runs, and no process trains there.",
        columns=(
            *("task", "variant", "seed", "steps", "score", "games", "at step", "95 % interval"),
            *("state", "directory"),
        ),
        rows=rows,
    )


def relative(path: Path, folder: Path) -> str:
    """The address of a file or folder, as seen from the page. A name may hold #, ? or %, or look
    like the scheme of an address: quoted, and behind a dot, it is a path."""
    steps = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return f"./{quote(os.fsencode(steps))}"
