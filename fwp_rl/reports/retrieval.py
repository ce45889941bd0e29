"""Runs of associative retrieval beside the authors' logs: one page with a table and a figure.

    python -m fwp_rl.reports.retrieval FOLDERS --output docs/results/retrieval.md

The folders are ablations, runs, or folders that hold runs. The page and a PNG of its name are
written; the logs are ``retrieval_published.csv`` beside it, or what ``--published`` names. Both
sides count as the authors do: the best of a run's evaluations, solved at 0.001 or less.
"""

import argparse
import csv
import io
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fwp_rl.config import ConfigError
from fwp_rl.reports.plots import BLUE, VERMILION, new_figure
from fwp_rl.reports.sources import find_runs, reason
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.files import write_file
from fwp_rl.runs.results import task_result
from fwp_rl.runs.yaml_files import read_yaml
from fwp_rl.tasks.retrieval import RetrievalConfig
from fwp_rl.terminal import format_seconds

__all__ = ["Case", "Published", "Run", "agreement", "page", "read_published", "read_runs"]

SOLVED = 0.001
FACTOR = 1.5
"""Losses of unsolved cells agree if neither is more than so many times the other."""
FIRST_END = 1100
"""No log of a run that found no solution ends before this step but one that was cut off: patience
takes 11 evaluations."""

MEMORIES = {
    "sum": ("elu1", "dpfp1", "dpfp2", "dpfp3", "favor64", "favor128", "favor512"),
    "attention": ("softmax",),
    "delta": ("elu1", "dpfp1", "dpfp2", "favor64", "favor128"),
}
"""Rule → feature maps, in the order of the page."""
NAMES = {"elu1": "ELU + 1", "dpfp1": "DPFP-1", "dpfp2": "DPFP-2", "dpfp3": "DPFP-3"}
NAMES |= {f"favor{m}": f"FAVOR+, m = {m}" for m in (64, 128, 512)}
SETTINGS = {"capacity": "1, capacity", "update_rule": "2, update rule"}

PAGE = """\
# Associative retrieval, beside the authors' logs

Settings 1 and 2 of "Linear Transformers Are Secretly Fast Weight Programmers" (Schlag, Irie,
Schmidhuber 2021), section 6.1: the best evaluation loss of a run. An answer of zeros has 0.5; a run
is solved, and ends, at 0.001 or less. [Tasks](../tasks.md) say what is as published and what is
not.

Of {solvable} cells that the logs solve, {solved} are solved here. Of {unsolvable} that they do not
solve, {alike} are not solved here either and end within a factor of 1.5 of the log. {runs} runs,
{hours} of training in all{clock}.

![Loss against the number of keys S: our runs on the authors' logs]({figure})

A cell has our runs, one for each seed, and after the stroke the log. ✓ is solved, a number is the
loss of what is not; \\* ended by the clock. **Bold**: another outcome than the log's, by the median
of our runs. † the log was cut off, and is compared with nothing. nan: no evaluation gave a number.
"""


class Case(NamedTuple):
    """What is tried: all but the seed."""

    setting: str
    rule: str
    feature_map: str
    symbols: int

    @property
    def memory(self) -> str:
        """In words: ``delta, DPFP-1``."""
        if self.rule == "attention":
            return "softmax attention"
        return f"{self.rule}, {NAMES.get(self.feature_map, self.feature_map)}"


@dataclass(frozen=True, kw_only=True)
class Published:
    """The log of one run: nan where every evaluation was."""

    loss: float
    steps: int

    @property
    def whole(self) -> bool:
        return solved(self.loss) or self.steps >= FIRST_END


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of ours: its best evaluation, nan where there is none that is a number."""

    seed: int
    loss: float
    steps: int
    stopped: str
    seconds: float


Runs = Mapping[Case, Sequence[Run]]
Logs = Mapping[Case, Published]


def solved(loss: float) -> bool:
    """Whether the authors' criterion is met; nan does not meet it."""
    return loss <= SOLVED


def read_published(path: Path) -> dict[Case, Published]:
    """The authors' logs. ConfigError where the file is none of them."""
    try:
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        return {
            Case(row["setting"], row["rule"], row["feature_map"], int(row["symbols"])): Published(
                loss=float(row["best_loss"]), steps=int(row["steps"])
            )
            for row in csv.DictReader(lines)
        }
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: is no table of published losses: {error}") from None


def read_runs(paths: Sequence[str | Path]) -> tuple[dict[Case, list[Run]], dict[str, str]]:
    """The finished runs of the published model, by case, and what was left out and why.
    ConfigError where there is none."""
    found, skipped = find_runs(paths)
    runs: dict[Case, list[Run]] = {}
    for path in found:
        try:
            case, run = _read(path)
        except ConfigError as error:
            skipped[str(path)] = reason(error, path)
            continue
        runs.setdefault(case, []).append(run)
    if not runs:
        why = "; ".join(f"{path}: {said}" for path, said in skipped.items())
        raise ConfigError(f"no run of associative retrieval to report on: {why}")
    for group in runs.values():
        group.sort(key=lambda run: run.seed)
    return runs, skipped


def _read(path: Path) -> tuple[Case, Run]:
    directory = RunDirectory.open(path)
    fields = read_yaml(directory.config)
    task, core = fields.get("task"), fields.get("core")
    if not isinstance(task, Mapping) or task.get("name") != "retrieval":
        raise ConfigError("is no run of associative retrieval")
    core = core.get("name") if isinstance(core, Mapping) else core
    if core != "feedforward" or task.get("memory") == "core":
        raise ConfigError("examines a core, not the published model")
    try:
        config = RetrievalConfig(**{name: value for name, value in task.items() if name != "name"})
    except TypeError:
        raise ConfigError("its task has an unknown option") from None
    result = task_result(directory)
    if result is None:
        raise ConfigError("has not ended: there is no result.json that can be read")
    features = config.phi + (str(config.favor_features or 64) if config.phi == "favor" else "")
    loss = result.validation.get("loss")
    return Case(config.setting, config.writes, features, config.symbols), Run(
        seed=int(fields.get("seed", 1)),
        loss=math.nan if loss is None else loss,
        steps=result.steps,
        stopped=result.stopped,
        seconds=result.seconds,
    )


def agreement(log: Published, runs: Sequence[Run]) -> bool | None:
    """Whether most of our runs came to what the log did: solved it, or ended within a factor of 1.5
    of its loss. A log of nan agrees with any run that solved nothing. None where the log was cut
    off."""
    if not log.whole:
        return None
    ours = statistics.median_low(sorted(x.loss if x.loss == x.loss else math.inf for x in runs))
    if solved(log.loss) or solved(ours):
        return solved(log.loss) and solved(ours)
    if math.isnan(log.loss):
        return True
    return max(ours, log.loss) <= FACTOR * min(ours, log.loss)


def page(runs: Runs, logs: Logs, *, figure: str) -> str:
    """The page in Markdown. Cases without a log are left out."""
    known = {case: group for case, group in runs.items() if case in logs}
    verdicts = {case: agreement(logs[case], group) for case, group in known.items()}
    compared = [case for case, verdict in verdicts.items() if verdict is not None]
    both = [case for case in compared if solved(logs[case].loss)]
    rest = [case for case in compared if case not in both]
    agree, alike = (sum(verdicts[case] is True for case in group) for group in (both, rest))
    every = [run for group in known.values() for run in group]
    capped = sum(run.stopped == "time" for run in every)
    seconds = sum(run.seconds for run in every)
    clock = f"; {capped} of them ended by the clock, not by patience" if capped else ""
    text = PAGE.format(
        solvable=len(both),
        solved=agree,
        unsolvable=len(rest),
        alike=alike,
        runs=len(every),
        hours=format_seconds(seconds),
        clock=clock,
        figure=figure,
    )
    tables = [_table(setting, known, logs, verdicts) for setting in SETTINGS]
    return "\n\n".join([text.strip(), *filter(None, tables)]) + "\n"


def _table(setting: str, runs: Runs, logs: Logs, verdicts: Mapping[Case, bool | None]) -> str:
    cases = [case for case in runs if case.setting == setting]
    if not cases:
        return ""
    sizes = sorted({case.symbols for case in cases})
    lines = [
        f"| setting {SETTINGS[setting]} | " + " | ".join(f"S = {size}" for size in sizes) + " |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    for rule, feature_map in _memories(cases):
        cells = [Case(setting, rule, feature_map, size) for size in sizes]
        texts = [
            _cell(runs[case], logs[case], verdicts[case]) if case in runs else "" for case in cells
        ]
        lines.append(f"| {cells[0].memory} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _memories(cases: Sequence[Case]) -> Iterator[tuple[str, str]]:
    """Rule and feature map of these cases, in the order of ``MEMORIES``."""
    there = {(case.rule, case.feature_map) for case in cases}
    for rule, maps in MEMORIES.items():
        yield from ((rule, name) for name in maps if (rule, name) in there)


def _cell(runs: Sequence[Run], log: Published, verdict: bool | None) -> str:
    ours = " ".join(_loss(run.loss) + r"\*" * (run.stopped == "time") for run in runs)
    if verdict is False:
        ours = f"**{ours}**"
    return f"{ours} / {_loss(log.loss)}{'' if log.whole else '†'}"


def _loss(loss: float) -> str:
    return "✓" if solved(loss) else f"{loss:.3f}"


def draw(runs: Runs, logs: Logs) -> bytes:
    """A PNG: a panel for each memory and setting, the log as a line and our runs as points."""
    panels = [
        (setting, *memory)
        for setting in SETTINGS
        for memory in _memories([case for case in logs if case.setting == setting])
    ]
    columns = 4
    rows = math.ceil(len(panels) / columns)
    figure = new_figure((9.6, 2.0 * rows + 0.6))
    figure.set_layout_engine("none")  # what is constrained takes ten times as long to draw
    room = {"left": 0.06, "right": 0.99, "bottom": 0.1, "top": 0.97, "wspace": 0.1, "hspace": 0.35}
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False, gridspec_kw=room)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (setting, rule, feature_map) in zip(grid.flat, panels, strict=False):
        own = {
            case.symbols: case
            for case in logs
            if (case.setting, case.rule, case.feature_map) == (setting, rule, feature_map)
        }
        _panel(axes, [own[size] for size in sorted(own)], runs, logs)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _panel(axes: Any, cases: Sequence[Case], runs: Runs, logs: Logs) -> None:
    """All that is solved lies on the line of 0.001."""
    whole = [case for case in cases if logs[case].whole]
    axes.plot(
        [case.symbols for case in whole],
        [max(logs[case].loss, SOLVED) for case in whole],
        color=VERMILION,
        linewidth=1.2,
        label="the authors' log",
    )
    for capped, label in ((False, "ours"), (True, "ours, ended by the clock")):
        points = [
            (case.symbols, max(run.loss, SOLVED))
            for case in cases
            for run in runs.get(case, ())
            if (run.stopped == "time") == capped
        ]
        axes.plot(
            *(zip(*points, strict=True) if points else ([], [])),
            "o",
            color=BLUE,
            markersize=4.5,
            markerfacecolor="white" if capped else BLUE,
            label=label,
            clip_on=False,
            zorder=3,
        )
    axes.axhline(SOLVED, color="0.5", linewidth=0.8, linestyle=":", label="solved")
    axes.set_yscale("log")
    axes.set_yticks([0.001, 0.01, 0.1], ["0.001", "0.01", "0.1"])
    axes.minorticks_off()
    axes.set_ylim(SOLVED * 0.8, 0.8)
    axes.set_xlim(0, max(case.symbols for case in cases) * 1.04)
    axes.set_title(f"{SETTINGS[cases[0].setting][0]}: {cases[0].memory}", fontsize=9, loc="left")
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m fwp_rl.reports.retrieval", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="the page, NAME.md")
    parser.add_argument("--published", type=Path, help="the authors' logs as CSV")
    given = parser.parse_args(arguments)
    output: Path = given.output
    try:
        logs = read_published(given.published or output.parent / "retrieval_published.csv")
        runs, skipped = read_runs(given.folders)
        picture = output.with_suffix(".png")
        write_file(picture, draw(runs, logs))
        write_file(output, page(runs, logs, figure=picture.name).encode())
    except (ConfigError, ImportError, OSError) as error:
        sys.exit(str(error))
    for path, said in skipped.items():
        print(f"left out {path}: {said}")
    print(f"{output}: {sum(map(len, runs.values()))} runs")


if __name__ == "__main__":
    main()
