"""The tables of a report that are of its runs: what was run, scores, costs. Those of comparisons
are in ``comparison_tables.py``."""

import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from fwp_rl.cores.cost import Cost
from fwp_rl.envs.atari.scores import Published, published_scores
from fwp_rl.reports.groups import differing
from fwp_rl.reports.records import Evaluation, Record, Records
from fwp_rl.reports.sources import plain
from fwp_rl.reports.statistics import mean_interval, normalized_score
from fwp_rl.reports.table import SCORE, Cell, Column, Table, Value, number, span, table, text
from fwp_rl.runs.config import AGENTS, TrainConfig
from fwp_rl.runs.presets import experiment
from fwp_rl.terminal import format_seconds

__all__ = ["costs", "differences", "measures", "published", "relative", "runs", "scores"]
__all__ += ["SPREAD", "what_was_run"]

SPREAD = "n value low high lowest highest"
"""Fields: runs, their mean, the ends of its 95 % interval, and the lowest and the highest run."""
_NAMED = 8
"""Groups that are named, where a field's value is theirs."""


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
    ordered = sorted(facts.items(), key=lambda item: _order(item[0][0]))
    total = len(records.runs)
    return table(
        "what_was_run",
        "What was run",
        f"{total} runs: {len(records.labels)} variants on {len(records.tasks)} tasks.",
        fields="what value n",
        rows=[(name, value, count) for (name, value), count in ordered],
        columns=[text("what", ""), text("value"), number("n", "runs")],
    )


def _order(name: str) -> int:
    first = ("agent", "steps", "state", "protocol of play", "score")
    return first.index(name) if name in first else len(first)


def _meaning(score: Evaluation) -> str:
    if score.games is None:
        return f"{score.measure} on the test split, weights of the best validation"
    return f"mean of {score.games} whole games, {score.actions} actions, last checkpoint"


def differences(records: Records) -> Table:
    """The fields of the configs that have several values, and whose these are."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for run in records.runs:
        config = experiment(run.config, without=("seed",))
        groups.setdefault((run.label, run.task), config)
    rows: list[Sequence[Value]] = []
    for name in differing(list(groups.values())):
        whose: dict[str, list[tuple[str, str]]] = {}
        for key, config in groups.items():
            if name in config:
                whose.setdefault(plain(str(config[name])), []).append(key)
        of_field = [key for keys in whose.values() for key in keys]
        rows += [(name, value, len(keys), _whose(keys, of_field)) for value, keys in whose.items()]
    return table(
        "differences",
        "In what the configs differ",
        "Fields that are the same everywhere are left out, and so are seeds, folders, and what "
        "follows from another core, agent or environment.",
        fields="field value groups of",
        rows=rows,
        columns=[text("field"), text("value"), text("of", "variants and tasks")],
    )


def _whose(keys: Sequence[tuple[str, str]], all_keys: Sequence[tuple[str, str]]) -> str:
    """The groups that have a value: variants or tasks where these alone say it."""
    for place in (0, 1):
        names = dict.fromkeys(key[place] for key in keys)
        if {key for key in all_keys if key[place] in names} == set(keys):
            return _some(names)
    return _some(f"{label} on {task}" for label, task in keys)


def _some(names: Iterable[str]) -> str:
    named = list(names)
    rest = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return f"{', '.join(named[:_NAMED])}{rest}"


def spread(values: Sequence[float]) -> tuple[int, float, float | None, float | None, float, float]:
    """``SPREAD`` of some runs."""
    low, high = mean_interval(np.array(values)[:, None])
    ends = (None, None) if low is None or high is None else (float(low[0]), float(high[0]))
    return len(values), statistics.fmean(values), *ends, min(values), max(values)


def spread_columns(value: str, form: str) -> list[Column]:
    """How a page shows ``SPREAD``; ``value`` is the title of the mean."""
    between = span("lowest", "highest", "range", form)
    return [
        number("n", "runs"),
        number("value", value, form),
        span("low", "high", "95 % interval", form),
        Column("range", lambda row: Cell("") if row["n"] == 1 else between.cell(row)),
    ]


def scores(records: Records) -> Table:
    """Mean of the final evaluations, raw and normalised, for each task and variant."""
    rows: list[Sequence[Value]] = []
    for task, label, group in _groups(records):
        scored = [(run, run.score) for run in group if run.score is not None]
        if not scored:
            continue
        means = [score.mean for _, score in scored]
        normal = [normalized_score(run.config, score.mean) for run, score in scored]
        success = [score.success for _, score in scored if score.success is not None]
        games = [score.games for _, score in scored if score.games is not None]
        steps = [score.step for _, score in scored]
        bounds = scored[0][0].config.score_bounds() or (None, None)
        rows.append(
            [
                *(task, label, scored[0][1].measure or "return", *spread(means)),
                *(min(games, default=None), max(games, default=None), min(steps), max(steps)),
                _mean([value for value in normal if value is not None]),
                *(_mean(success), *bounds),
            ]
        )
    return table(
        "scores",
        "Scores",
        "The last checkpoint's evaluation, never the best of several: mean over runs, and from the "
        "lowest run to the highest; games and steps of these evaluations. Normalised: on Atari 0 "
        "is a random player and 1 a human, elsewhere they are the bounds that the task states.",
        fields=f"task variant measure {SPREAD} games_min games_max step_min step_max normalised "
        "success bound_0 bound_1",
        rows=rows,
        columns=[
            *(text("task"), text("variant")),
            *([text("measure")] if {row[2] for row in rows} != {"return"} else []),
            *spread_columns("mean", SCORE),
            *(number("normalised", form=".3f"), number("success", form=".1%")),
            span("games_min", "games_max", "games"),
            span("step_min", "step_max", "at step"),
        ],
    )


def _groups(records: Records) -> list[tuple[str, str, list[Record]]]:
    """Task, variant and their runs, task by task."""
    both = [(task, label) for task in records.tasks for label in records.labels]
    found = [(task, label, records.of(label, task)) for task, label in both]
    return [group for group in found if group[2]]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def measures(records: Records) -> Table | None:
    """All that sequence tasks measured, on both splits; None where there is no such run."""
    rows: list[Sequence[Value]] = []
    for task, label, group in _groups(records):
        results = [run.result for run in group if run.result is not None]
        for split in ("test", "validation"):
            measured = [getattr(result, split) for result in results]
            for name in dict.fromkeys(name for measures in measured for name in measures):
                found = [value for of in measured if (value := of.get(name)) is not None]
                if found:
                    rows.append([task, label, split, name, *spread(found)])
    if not rows:
        return None
    return table(
        "measures",
        "Measures of sequence tasks",
        "All measures of both splits, with the weights of the best validation.",
        fields=f"task variant split measure {SPREAD}",
        rows=rows,
        columns=[
            *(text("task"), text("variant"), text("split"), text("measure")),
            *spread_columns("mean", ",.4g"),
        ],
    )


def published(records: Records) -> Table | None:
    """Published scores beside ours, where both were made by the papers' protocol; None where no run
    was evaluated by it."""
    rows: list[Sequence[Value]] = []
    for run in records.runs:
        if run.paper is None or not isinstance(run.config, TrainConfig):
            continue
        ours = (run.task, run.label, run.seed, run.paper.step, run.paper.mean, run.paper.std)
        theirs: Sequence[Published | None] = published_scores(run.config.env.spec().name)
        for entry in theirs or [None]:
            if entry is None:
                rows.append([*ours, None, None, None, "none found"])
            else:
                rows.append([*ours, entry.score, entry.steps, entry.agent, entry.source])
    if not rows:
        return None
    return table(
        "published",
        "Beside published scores",
        "All by the protocol of the fast weight papers: single lives, greedy actions, mean "
        "and standard deviation of the means of 5 runs of 30 lives.",
        fields="task variant seed step value std published published_step agent source",
        rows=rows,
        columns=[
            *(text("task"), text("variant"), number("seed", form="d"), number("step")),
            *(number("value", "ours", ",.1f"), number("std", "±", ",.1f")),
            *(number("published", form=",.0f"), number("published_step", "its step")),
            *(text("agent"), text("source")),
        ],
    )


def costs(records: Records) -> Table:
    """What each variant costs: counts of its core, measured speed, hours."""
    rows: list[Sequence[Value]] = []
    for task, label, group in _groups(records):
        size = next((run.size for run in group if run.size is not None), None)
        core = None if size is None else size.core
        counts: Sequence[Value] = core or [None] * len(Cost._fields)
        speeds = [run.step / run.seconds for run in group if run.seconds]
        rows.append(
            [
                *(task, label, len(group), None if size is None else size.parameters, *counts),
                statistics.median(speeds) if speeds else None,
                sum(run.seconds for run in group),
            ]
        )
    return table(
        "costs",
        "Costs",
        "State: floats carried from step to step for each environment. Multiply-adds: of "
        "one step of one environment. Steps per second are those of these runs on their machine, "
        "with whatever ran beside them.",
        fields=f"task variant n parameters {' '.join(f'core_{name}' for name in Cost._fields)} "
        "steps_per_second seconds",
        rows=rows,
        columns=[
            *(text("task"), text("variant"), number("parameters")),
            *(
                number(f"core_{name}", title)
                for name, title in zip(
                    Cost._fields, ("core's parameters", "state", "multiply-adds"), strict=True
                )
            ),
            number("steps_per_second", "steps/s", ",.0f"),
            Column(
                "training, all runs",
                lambda row: Cell(format_seconds(float(row["seconds"] or 0.0)), number=True),
            ),
        ],
    )


def runs(records: Records, folder: Path) -> Table:
    """Every run, with a link to its directory."""
    names = _short([run.path for run in records.runs])
    rows: list[Sequence[Value]] = []
    for run, name in zip(records.runs, names, strict=True):
        rows.append(
            [
                *(run.task, run.label, run.seed, AGENTS.name_of(type(run.config))),
                *(run.step, run.seconds, *_evaluated(run), run.state),
                *(name, plain(str(run.path)), relative(run.path, folder)),
            ]
        )
    return table(
        "runs",
        "Runs",
        "The interval is over the games of one evaluation: it says nothing about seeds. "
        "Killed: it says that it runs, and no process trains there.",
        fields="task variant seed agent step seconds value low high games evaluated_step "
        "normalised success state directory path link",
        rows=rows,
        columns=[
            *(text("task"), text("variant"), number("seed", form="d"), number("step", "steps")),
            *(number("value", "score", SCORE), span("low", "high", "95 % interval", SCORE)),
            *(number("games"), number("evaluated_step", "at step"), text("state")),
            text("directory", link="link"),
        ],
    )


def _evaluated(run: Record) -> Sequence[Value]:
    """Mean, ends of its interval, games, step, normalised score and success rate."""
    score = run.score
    if score is None:
        return (None,) * 7
    normal = normalized_score(run.config, score.mean)
    ends = score.interval or (None, None)
    return (score.mean, *ends, score.games, score.step, normal, score.success)


def _short(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as tell all apart."""
    parts = [path.resolve().parts for path in paths]
    length = 1
    while len({p[-length:] for p in parts}) < len(parts) and length < max(map(len, parts)):
        length += 1
    return [plain("/".join(p[-length:])) for p in parts]


def relative(path: Path, folder: Path) -> str:
    """The address of a file or folder, as seen from the page. A name may hold #, ? or %, or look
    like the scheme of an address: quoted, and behind a dot, it is a path."""
    steps = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return f"./{quote(os.fsencode(steps))}"
