"""``python -m fwp_rl.reports.diagnostics FOLDER --output PAGE.md``: which core can do which
sequence task. Writes the page and, beside it, its heat map as ``PAGE.png``.

A square is a core on a task. Its colour is the mean over seeds, from chance to perfect; the marks
in it are the seeds, and the line is chance. Few seeds get no intervals: each of them is shown.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fwp_rl.config import ConfigError
from fwp_rl.reports.figures import LIGHT, Draw, Theme, draw
from fwp_rl.reports.groups import compared
from fwp_rl.reports.heatmap import SEQUENTIAL, colours
from fwp_rl.reports.plots import new_figure
from fwp_rl.reports.sources import find_runs, no_runs, plain, reason
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.files import write_file
from fwp_rl.runs.presets import task_config_from_dict
from fwp_rl.runs.results import task_result
from fwp_rl.runs.schema import TaskResult
from fwp_rl.runs.yaml_files import read_yaml
from fwp_rl.tasks import TaskConfig
from fwp_rl.tasks.lengths import LengthTaskConfig

__all__ = ["Examination", "Panel", "figure_heat_map", "panels", "read_examinations", "write_page"]


@dataclass(frozen=True, kw_only=True)
class Examination:
    """A core's run on a task, and what it came to.

    score    the task's measure on its test split
    longest  the same at the longest sequences of the test; None where it has one length
    chance   the score of a guess, and that at the longest sequences; None where it is not known
    """

    core: str
    task: str
    seed: int
    result: TaskResult
    score: float
    longest: float | None
    chance: float | None
    longest_chance: float | None


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One heat map: the scores of each core's seeds on each task, and each task's chance."""

    title: str
    scores: Mapping[tuple[str, str], Sequence[float]]
    chance: Mapping[str, float | None]

    @property
    def cores(self) -> list[str]:
        return list(dict.fromkeys(core for core, _ in self.scores))

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(task for _, task in self.scores))


def read_examinations(paths: Sequence[str | Path]) -> tuple[list[Examination], dict[str, str]]:
    """The runs at these paths that have a result on a sequence task, and what was left out and why.

    ConfigError where there is none.
    """
    found, skipped = find_runs(paths)
    runs: dict[tuple[str, str, int], Examination] = {}
    for path, source in found.items():
        try:
            run = _examination(RunDirectory(path), source.labels)
            key = (run.core, run.task, run.seed)
            if key in runs:  # a mean over them would be of two experiments
                raise ConfigError("another run has its core, task and seed")
            runs[key] = run
        # whatever is wrong with one directory, the others are reported on
        except Exception as error:
            skipped[plain(str(path))] = reason(error, path)
    if not runs:
        raise no_runs(skipped)
    return list(runs.values()), skipped


def _examination(run: RunDirectory, labels: Mapping[str, str]) -> Examination:
    config = read_yaml(run.config)
    if "task" not in config:
        raise ConfigError("is no run on a sequence task")
    task = task_config_from_dict(config["task"], source=str(run.config))
    result = task_result(run)
    if result is None or result.score is None:
        raise ConfigError("has no result")
    if result.measure != "accuracy":
        raise ConfigError(f"is measured by {result.measure}, not by a share of right answers")
    bounds = task.score_bounds()
    return Examination(
        core=compared(labels) or str(config["core"]["name"]),
        task=labels.get("task", task.title()),
        seed=int(config["seed"]),
        result=result,
        score=result.score,
        longest=result.test.get("long_accuracy"),
        chance=None if bounds is None else bounds[0],
        longest_chance=_longest_chance(task),
    )


def _longest_chance(task: TaskConfig) -> float | None:
    return task.chance_at(task.tested[-1]) if isinstance(task, LengthTaskConfig) else None


def panels(runs: Sequence[Examination]) -> list[Panel]:
    """The scores of all runs, and those at the longest sequences, where a task has them."""
    tasks = {run.task: run for run in runs}
    made = [
        Panel(
            title="at the training length",
            scores=_grouped(runs, lambda run: run.score),
            chance={task: run.chance for task, run in tasks.items()},
        )
    ]
    longer = [run for run in runs if run.longest is not None]
    if longer:
        made.append(
            Panel(
                title="at the longest of the test",
                scores=_grouped(longer, lambda run: run.longest or 0.0),
                chance={task: run.longest_chance for task, run in tasks.items()},
            )
        )
    return made


def _grouped(
    runs: Sequence[Examination], value: Callable[[Examination], float]
) -> dict[tuple[str, str], list[float]]:
    groups: dict[tuple[str, str], list[float]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        groups.setdefault((run.core, run.task), []).append(value(run))
    cores, tasks = (list(dict.fromkeys(getattr(r, x) for r in runs)) for x in ("core", "task"))
    return {(c, t): groups[c, t] for c in cores for t in tasks if (c, t) in groups}


def figure_heat_map(shown: Sequence[Panel]) -> Draw:
    """Cores against tasks, a panel for each."""

    def figure(theme: Theme) -> Any:
        cores, tasks = shown[0].cores, shown[0].tasks
        width = 1.9 + len(shown) * (0.5 + 0.95 * len(tasks))
        made = new_figure((width, 1.9 + 0.46 * len(cores)))
        row = made.subplots(1, len(shown), squeeze=False, sharey=True)[0]
        for axes, panel in zip(row, shown, strict=True):
            _paint(axes, panel, panel.tasks, cores, theme)
        row[0].set_yticks(range(len(cores)), cores)
        return made

    return figure


def _paint(
    axes: Any, panel: Panel, tasks: Sequence[str], cores: Sequence[str], theme: Theme
) -> None:
    picture = np.ones((len(cores), len(tasks), 3))
    for (core, task), scores in panel.scores.items():
        i, j = cores.index(core), tasks.index(task)
        chance = panel.chance[task]
        share = _share(statistics.fmean(scores), chance)
        picture[i, j] = colours(np.array(share), 0.0, 1.0, SEQUENTIAL) / 255
        ink = "#1a1a1a" if share > 0.6 else "#ffffff"
        mean = f"{statistics.fmean(scores):.2f}"
        axes.text(j, i - 0.14, mean, ha="center", va="center", color=ink, fontsize=8)
        # the lower third of a square is an axis from 0 to 1
        at = [j - 0.42 + 0.84 * min(max(score, 0.0), 1.0) for score in scores]
        axes.plot(at, [i + 0.28] * len(at), "o", ms=3.2, mec=ink, mfc="none", mew=0.8)
        if chance is not None:
            place = j - 0.42 + 0.84 * chance
            axes.plot([place] * 2, [i + 0.14, i + 0.42], color=ink, lw=0.8)
    axes.imshow(picture, aspect="auto")
    axes.set_title(panel.title, loc="left", fontsize=10, color=theme.text)
    axes.set_xticks(range(len(tasks)), tasks, rotation=35, ha="right")
    axes.tick_params(colors=theme.text, labelsize=8, length=0)
    axes.set_xticks(np.arange(len(tasks) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(cores) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#ffffff", linewidth=2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)


def _share(score: float, chance: float | None) -> float:
    """How far a score has come from chance to perfect."""
    low = chance or 0.0
    return (score - low) / (1 - low)


def write_page(
    runs: Sequence[Examination], page: Path, *, skipped: Mapping[str, str] | None = None
) -> None:
    """Write the page, and its heat map beside it.

    ConfigError where they cannot be written. ImportError where matplotlib is missing (extra
    ``reports``).
    """
    shown = panels(runs)
    picture = page.with_suffix(".png")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_file(picture, draw(figure_heat_map(shown), ("png",), LIGHT)[0])
        write_file(page, _text(runs, shown, picture.name, skipped or {}).encode())
    except OSError as error:
        raise ConfigError(
            f"{page}: the page cannot be written there ({error.strerror}); name another --output"
        ) from error


def _text(
    runs: Sequence[Examination],
    shown: Sequence[Panel],
    picture: str,
    skipped: Mapping[str, str],
) -> str:
    first, *more = shown
    seeds = sorted({len(scores) for scores in first.scores.values()})
    count = " to ".join(map(str, dict.fromkeys([seeds[0], seeds[-1]])))
    longest = " On the right: the longest sequences of the test." if more else ""
    lines = [
        "# Which core can do which sequence task",
        "",
        f"{len(runs)} runs: {len(first.cores)} cores, {len(first.tasks)} tasks, {count} "
        f"{'seed' if count == '1' else 'seeds'} each. Every run is measured once, on the test "
        "split, with the weights of its best validation.",
        "",
        f"![Cores against tasks]({picture})",
        "",
        "A square's number is the mean over seeds, and its colour how far that is from chance to "
        "perfect. Rings are the seeds, from 0 at a square's left edge to 1 at its right; the line "
        f"is chance.{longest}",
        "",
        *_means(shown),
        "",
        "<details><summary>Every run</summary>",
        "",
        *_every_run(runs),
        "",
        "</details>",
    ]
    if skipped:
        lines += ["", "Left out:", "", *(f"- {name}: {why}" for name, why in skipped.items())]
    return "\n".join(lines) + "\n"


def _means(shown: Sequence[Panel]) -> list[str]:
    """The means as a table: where a task has longer sequences, behind an arrow."""
    first = shown[0]

    def cell(values: Sequence[str | None]) -> str:
        return " → ".join(value for value in values if value is not None)

    def mean(panel: Panel, core: str, task: str) -> str | None:
        scores = panel.scores.get((core, task))
        return None if scores is None else f"{statistics.fmean(scores):.3f}"

    def chance(panel: Panel, task: str) -> str | None:
        level = panel.chance[task]
        return None if level is None else f"{level:.3f}"

    rows = [
        [core, *(cell([mean(p, core, t) for p in shown]) for t in first.tasks)]
        for core in first.cores
    ]
    rows.append(
        ["chance", *(cell([chance(panel, task) for panel in shown]) for task in first.tasks)]
    )
    return _table(["core", *first.tasks], rows)


def _every_run(runs: Sequence[Examination]) -> list[str]:
    head = ["core", "task", "seed", "score", "longest", "best step", "steps", "seconds", "ended by"]
    rows = [
        [
            run.core,
            run.task,
            str(run.seed),
            f"{run.score:.3f}",
            "" if run.longest is None else f"{run.longest:.3f}",
            f"{run.result.step:,}",
            f"{run.result.steps:,}",
            f"{run.result.seconds:.0f}",
            run.result.stopped,
        ]
        for run in runs
    ]
    return _table(head, rows, left=2)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """A Markdown table; all but its first columns are aligned to the right."""
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    cells = [[text.replace("|", "\\|") for text in row] for row in (head, rule, *rows)]
    return [f"| {' | '.join(row)} |" for row in cells]


def main() -> None:
    """Read the command line and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m fwp_rl.reports.diagnostics",
        description="Which core can do which sequence task: a page and its heat map.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="runs, or an ablation"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="PAGE.md")
    given = parser.parse_args()
    try:
        runs, skipped = read_examinations(given.folders)
        write_page(runs, given.output, skipped=skipped)
    except (ConfigError, ImportError) as error:
        sys.exit(str(error))
    print(f"{len(runs)} runs: {given.output}")


if __name__ == "__main__":
    main()
