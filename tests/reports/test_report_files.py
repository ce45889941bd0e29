"""The files of a report: numbers that can be computed with, tables and figures for a paper."""

import json
import math
import re
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwp_rl.cli import main
from fwp_rl.reports import comparison_tables, tables
from fwp_rl.reports.charts import chart_of_curves
from fwp_rl.reports.comparison import Band, compare
from fwp_rl.reports.figures import Styles
from fwp_rl.reports.latex import escaped, scores_latex
from fwp_rl.reports.page import write_report
from fwp_rl.reports.records import read_records
from fwp_rl.reports.statistics import MIN_RUNS, aggregate, mean_interval

from .conftest import MakeRun, Parsed, rows, write_run

FIELDS = {
    "scores": "task variant measure n value low high lowest highest games_min games_max step_min "
    "step_max normalised success bound_0 bound_1",
    "aggregates": "variant measure n tasks value low high",
    "improvement": "variant other n n_other value low high",
    "profiles": "variant threshold n value low high",
    "curves": "task variant step n value low high lowest highest",
    "costs": "task variant n parameters core_parameters core_state_floats core_multiply_adds "
    "steps_per_second seconds",
    "differences": "field value groups of",
    "what_was_run": "what value n",
    "runs": "task variant seed agent step seconds value low high games evaluated_step normalised "
    "success state directory path link",
}
WORDS = "task variant other measure agent state directory path link field value_ of what source"


def scores_of(core: str) -> list[float]:
    return [seed / 10 + (core == "delta_net") for seed in range(1, 6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on two cores and a task, five seeds each, and one seed of a third core; the runs lie
    beside it. Not to be written to."""
    path = tmp_path_factory.mktemp("report")
    for core in ("delta_net", "lstm"):
        for seed, score in enumerate(scores_of(core), 1):
            write_run(path / "runs", core, seed=seed, score=score)
    write_run(path / "runs", "gru", score=0.5)
    write_report(read_records([path / "runs"]), path / "report", title="A & B")
    return path / "report"


def numbers(folder: Path, name: str) -> Iterator[tuple[dict[str, str], str, float]]:
    """Row, field and value of every number in a CSV."""
    for row in rows(folder, name):
        for field, value in row.items():
            if value and field not in WORDS.split():
                yield row, field, float(value)  # ValueError: no number


def test_every_number_is_a_number(folder: Path) -> None:
    made = {file.stem for file in (folder / "tables").glob("*.csv")}
    assert made == set(FIELDS)
    for name, fields in FIELDS.items():
        assert list(rows(folder, name)[0]) == fields.split()
        if name not in ("differences", "what_was_run"):
            assert all(math.isfinite(value) for _, _, value in numbers(folder, name)), name


def test_the_scores_can_be_computed_from_the_runs(folder: Path) -> None:
    for row in rows(folder, "scores"):
        own = [float(r["value"]) for r in rows(folder, "runs") if r["variant"] == row["variant"]]
        got = [float(row[name]) for name in ("n", "value", "lowest", "highest")]
        assert got == pytest.approx([len(own), statistics.fmean(own), min(own), max(own)])
        assert (row["low"] == "") == (len(own) < MIN_RUNS)


def test_the_aggregates_are_the_statistics_of_the_scores(folder: Path) -> None:
    for core in ("delta_net", "lstm"):
        normalised = [(score + 1) / 2 for score in scores_of(core)]  # Catch: -1 to 1
        for name, estimate in aggregate({"Catch-v0": normalised}).items():
            (row,) = [
                r
                for r in rows(folder, "aggregates")
                if (r["variant"], r["measure"]) == (core, name)
            ]
            assert float(row["value"]) == pytest.approx(estimate.value)
            assert estimate.interval is not None
            ends = [float(row["low"]), float(row["high"])]
            assert ends == pytest.approx(estimate.interval)


def test_only_those_with_five_runs_are_said_to_be_better(folder: Path) -> None:
    pairs = {(r["variant"], r["other"]): float(r["value"]) for r in rows(folder, "improvement")}
    assert pairs == {("delta_net", "lstm"): 1.0, ("lstm", "delta_net"): 0.0}


def test_the_curves_are_means_over_the_runs(folder: Path) -> None:
    curve = [r for r in rows(folder, "curves") if r["variant"] == "delta_net"]
    at_the_end = [np.random.default_rng(seed).normal(size=10)[-1] for seed in range(1, 6)]
    assert (float(curve[0]["step"]), float(curve[-1]["step"])) == (100.0, 1000.0)
    ends = [float(curve[-1][name]) for name in ("value", "lowest", "highest")]
    assert ends == pytest.approx([statistics.fmean(at_the_end), min(at_the_end), max(at_the_end)])
    for row in curve:
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])


def test_a_band_is_the_range_or_the_interval(folder: Path) -> None:
    records = read_records([folder.parent / "runs"])
    curves, styles = compare(records).curves, Styles(records.labels)
    edges: dict[Band, set[tuple[float, float]]] = {"range": set(), "interval": set()}
    for band, found in edges.items():
        chart = chart_of_curves(curves, styles, axes_of=records.axes(), band=band)
        for series in chart["panels"][0]["series"]:
            if series["low"] is not None:
                found.add((series["low"][-1], series["high"][-1]))
    last = {row["variant"]: row for row in rows(folder, "curves")}  # the last of each
    del last["gru"]  # a single run
    fields: dict[Band, tuple[str, str]] = {
        "range": ("lowest", "highest"),
        "interval": ("low", "high"),
    }
    for band, names in fields.items():
        wanted = [tuple(float(f"{float(row[n]):.5g}") for n in names) for row in last.values()]
        assert sorted(edges[band]) == sorted(set(wanted))


def test_json_has_what_the_tables_have(folder: Path) -> None:
    def fail(name: str) -> None:
        pytest.fail(f"{name} is not JSON")

    report = json.loads((folder / "report.json").read_text(), parse_constant=fail)
    assert report["title"] == "A & B"
    for name in FIELDS:
        table = report["tables"][name]
        as_text = [{k: "" if v is None else str(v) for k, v in row.items()} for row in table]
        assert as_text == rows(folder, name)
    cores = [config["core"]["name"] for config in report["configs"]]
    assert cores == [run["variant"] for run in report["tables"]["runs"]]


def test_figures_have_a_papers_width_and_its_fonts(folder: Path) -> None:
    made = {file.stem for file in (folder / "figures").glob("*.pdf")}
    names = {"curves", "aggregates", "profiles", "improvement"}
    assert made == names | {f"{name}_column" for name in names}
    for file in (folder / "figures").glob("*.pdf"):
        pdf = file.read_bytes()
        (box,) = re.findall(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+)", pdf)
        inches = 3.25 if file.stem.endswith("_column") else 6.75
        assert float(box[0]) == pytest.approx(72 * inches)
        assert b"/FontFile2" in pdf  # TrueType, which is type 42
        assert b"/Type3" not in pdf


def test_what_an_earlier_report_had_and_this_one_lacks_is_gone(
    folder: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    (again / "figures" / "mine.png").touch()
    write_report(read_records([folder.parent / "runs" / "Catch-gru-s1"]), again, title="t")
    left = {file.stem for file in (again / "figures").iterdir()}
    assert left == {"curves", "curves_column", "mine"}
    assert not (again / "tables" / "improvement.csv").exists()
    assert not (again / "tables" / "aggregates.tex").exists()


def typeset(latex: str) -> str:
    """What LaTeX would set: commands become their letters, groups vanish. Independent of the code
    that escapes: it knows LaTeX's rules, not our table."""
    named = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^"}
    named |= {"textless": "<", "textgreater": ">", "textbar": "|", "textasciigrave": "`"}
    named |= {"ldots": "…"}
    out, at = "", 0
    while at < len(latex):
        letter = latex[at]
        if command := re.compile(r"\\([A-Za-z]+)(\{\})?").match(latex, at):
            assert command[2], f"{command[0]} would swallow a space"
            out, at = out + named[command[1]], command.end()
        elif letter == "\\":
            assert latex[at + 1] in "&%$#_{}", latex
            out, at = out + latex[at + 1], at + 2
        elif latex.startswith("--", at):
            out, at = out + "–", at + 2
        elif latex.startswith("''", at):
            out, at = out + '"', at + 2
        else:
            assert letter not in "&%$#_~^", latex
            out, at = out + (letter if letter not in "{}" else ""), at + 1
    return out


@given(st.text(st.characters(codec="ascii", exclude_characters="'") | st.just("…")))
def test_labels_are_typeset_as_they_are(text: str) -> None:
    assert typeset(escaped(text)) == text


def test_latex_holds_the_scores(tmp_path: Path, make_run: MakeRun) -> None:
    for core in ("delta_net", "lstm"):
        for seed in range(1, 6 if core == "lstm" else 3):
            make_run(core, seed=seed, score=seed / 4, folder=tmp_path / core)
        make_run(core, "Breakout", score=1234.5, folder=tmp_path / core)
    paths = [f"50% & _more_={tmp_path / 'delta_net'}", rf"\input{{x}}={tmp_path / 'lstm'}"]
    lines = scores_latex(tables.scores(read_records(paths))).splitlines()
    assert [line for line in lines if line.startswith("\\") and "rule" in line] == [
        *("\\toprule", "\\midrule", "\\bottomrule")
    ]
    head, first, second = [line for line in lines if line.endswith(r"\\")]
    assert head == r"Task & 50\% \& \_more\_ & \textbackslash{}input\{x\} \\"
    breakout, catch = sorted([first, second])
    assert breakout == r"Breakout & $1234$ & $1234$ \\"
    few, many = catch.removesuffix(r" \\").split(" & ")[1:]
    assert few == r"$0.375$ {\scriptsize ($0.250$, $0.500$)}"
    assert re.fullmatch(r"\$0\.750\$ \{\\scriptsize \{\[\}\$0\.\d+\$, \$\d\.\d+\$\{\]\}\}", many)


def test_the_interval_of_a_mean_against_a_bootstrap_in_a_loop() -> None:
    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, 1.0, (6, 3))
    drawn = [values[rng.integers(6, size=6)].mean(0) for _ in range(4000)]
    low, high = mean_interval(values)
    assert low == pytest.approx(np.quantile(drawn, 0.025, axis=0), abs=0.05)
    assert high == pytest.approx(np.quantile(drawn, 0.975, axis=0), abs=0.05)
    assert mean_interval(values[:4]) == (None, None)


def with_curve(run: Path, *points: tuple[int, float]) -> Path:
    lines = [json.dumps({"step": s, "time": 1.0, "charts/episode_return": v}) for s, v in points]
    (run / "metrics.jsonl").write_text("\n".join(lines))
    return run


def test_curves_of_a_point_and_short_ones_are_told(tmp_path: Path, make_run: MakeRun) -> None:
    with_curve(make_run("lstm"), (700, 2.0))
    with_curve(make_run("lstm", seed=2), (900, 4.0))
    with_curve(make_run("gru"))
    with_curve(make_run(seed=2), (100, 1.0), (400, 2.0))
    make_run(seed=3)
    compared = compare(read_records([tmp_path / "runs"]))
    text = " ".join(compared.notes)
    assert "single point" in text
    assert "Catch-lstm-s1, Catch-lstm-s2" in text
    assert "No learning curve, for nothing was measured yet: Catch-gru-s1" in text
    assert "delta_net on Catch-v0 at step 400 of 1,000" in text
    curves = comparison_tables.curves(compared).rows
    assert {row["variant"] for row in curves} == {"delta_net", "lstm"}
    (point,) = [row for row in curves if row["variant"] == "lstm"]
    got = [point[name] for name in ("step", "value", "lowest", "highest", "n")]
    assert got == [800.0, 3.0, 2.0, 4.0, 2]


def test_a_single_score_is_not_aggregated_and_that_is_said(
    tmp_path: Path, make_run: MakeRun
) -> None:
    for core in ("lstm", "gru"):
        with_curve(make_run(core))
    path = write_report(read_records([tmp_path / "runs"]), tmp_path / "out", title="t")
    assert "Every variant has a single score" in Parsed(path.read_text()).text
    assert list((tmp_path / "out" / "figures").iterdir()) == [], "no empty panels"
    assert not (tmp_path / "out" / "tables" / "aggregates.csv").exists()


def test_variants_without_a_common_task_are_compared_on_none(
    tmp_path: Path, make_run: MakeRun
) -> None:
    make_run("lstm")
    make_run("gru", "Breakout")
    compared = compare(read_records([tmp_path / "runs"]))
    assert (compared.aggregates, compared.profiles, compared.improvement) == ({}, {}, {})
    assert any(note.startswith("No task was run by every variant") for note in compared.notes)


def test_numbers_that_no_float_holds_end_no_report(tmp_path: Path, make_run: MakeRun) -> None:
    for seed in (1, 2):
        with_curve(make_run(seed=seed), (1, -1.7e308), (2, 1.7e308))
    write_report(read_records([tmp_path / "runs"]), tmp_path / "out", title="t")
    json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)


def test_the_command_groups_and_names(
    tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        make_run(seed=seed, discount=0.9 + seed / 100, folder=tmp_path / "a" / "deep")
    out = ["-o", str(tmp_path / "out")]
    main(["report", f"ours={tmp_path / 'a'}", "--by", "core,env.task", *out])
    (row,) = rows(tmp_path / "out", "scores")
    assert (row["variant"], row["n"]) == ("ours", "2")
    assert "differ in more than the seed" in (tmp_path / "out" / "report.html").read_text()
    for by, said in (("cores", "Did you mean"), (",", "expected fields of configs")):
        with pytest.raises(SystemExit):
            main(["report", str(tmp_path / "a"), "--by", by, *out])
        assert said in capsys.readouterr().err


def a_task_run(path: Path, seed: int, **test: Any) -> Path:
    """Of a sequence task, as it lies on disk, without having trained."""
    from fwp_rl.agents.supervised import SupervisedConfig
    from fwp_rl.runs.directory import RunDirectory
    from fwp_rl.runs.presets import config_to_dict
    from fwp_rl.tasks import TASKS

    run = RunDirectory.create(path)
    run.write_config(config_to_dict(SupervisedConfig(task=TASKS["parity"](), seed=seed)))
    run.write_status("finished", step=20, total=20)
    lines = [json.dumps({"step": s, "time": s / 10, "validation/score": s / 40}) for s in (10, 20)]
    run.metrics.write_text("\n".join(lines))
    result = {
        **{"schema": 1, "task": "parity", "step": 20, "steps": 20, "stopped": "steps"},
        **{"seconds": 2.0, "measure": "accuracy", "score": test["accuracy"], "test": test},
        **{"validation": {"accuracy": 0.5}, "size": {"parameters": 10, "core_inputs": 64}},
    }
    run.result.write_text(json.dumps(result))
    return path


def test_a_sequence_tasks_measures_are_numbers_too(tmp_path: Path) -> None:
    for seed in (1, 2):
        a_task_run(tmp_path / f"s{seed}", seed, accuracy=0.5 + seed / 10, accuracy_at_8=None)
    records = read_records([tmp_path])
    (score,) = tables.scores(records).rows
    assert [score[name] for name in ("task", "measure", "n", "games_min")] == [
        *("parity", "accuracy", 2, None)
    ]
    assert score["value"] == pytest.approx(0.65)
    table = tables.measures(records)
    assert table is not None
    measured = {(row["split"], row["measure"]): row["value"] for row in table.rows}
    assert measured == pytest.approx({("test", "accuracy"): 0.65, ("validation", "accuracy"): 0.5})
    assert comparison_tables.curves(compare(records)).rows[-1]["value"] == 0.5
