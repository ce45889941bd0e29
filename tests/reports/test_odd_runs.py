"""Whatever lies in a run directory, the others are reported on, and nothing of it is more than text
and numbers."""

import base64
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import pytest

from fwp_rl.cli import main
from fwp_rl.reports import tables
from fwp_rl.reports.page import write_report
from fwp_rl.reports.plots import learning_curve
from fwp_rl.reports.records import Records, read_records
from fwp_rl.reports.table import Table
from fwp_rl.runs.directory import RunDirectory

from .conftest import MakeRun, Parsed, evaluation, rows

Change = Callable[[Path], object]


def every_table(records: Records, folder: Path) -> list[Table]:
    made = [
        tables.what_was_run(records),
        tables.differences(records),
        tables.scores(records),
        tables.published(records),
        tables.measures(records),
        tables.costs(records),
        tables.runs(records, folder),
    ]
    return [table for table in made if table is not None]


def metrics(*lines: str) -> Change:
    return lambda run: (run / "metrics.jsonl").write_text("\n".join(lines))


def status(text: str | bytes) -> Change:
    data = text.encode() if isinstance(text, str) else text
    return lambda run: (run / "status.json").write_bytes(data)


def facts(**changes: object) -> Change:
    return status(json.dumps({"state": "finished", "step": 1000, "versions": {}} | changes))


def result(section: str, **changes: object) -> Change:
    """An evaluation that is odd in one section, beside the good one: of more games, so that it
    would be the score."""
    good = evaluation("Catch", 0.25, step=1000, games=90)
    odd = good | {section: good[section] | changes} if section else good | changes
    return lambda run: (run / "evaluations" / "odd.json").write_text(json.dumps(odd))


def in_place(of: str) -> Change:
    """A folder where a file is expected."""

    def change(run: Path) -> None:
        (run / of).unlink(missing_ok=True)
        (run / of).mkdir(parents=True)

    return change


def pipe(name: str) -> Change:
    def change(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).parent.mkdir(exist_ok=True)
        os.mkfifo(run / name)

    return change


def config(data: bytes) -> Change:
    return lambda run: (run / "config.yaml").write_bytes(data)


CORE = "feedforward"
"""What it costs is counted in no time."""
DEEP = 100_000 * "["
SHOWN: dict[str, Change] = {
    "a return that is a text": metrics('{"step": 9, "time": 1, "charts/episode_return": "high"}'),
    "a return that is a list": metrics('{"step": 9, "time": 1, "charts/episode_return": [1]}'),
    "a return without end": metrics('{"step": 9, "time": 1, "charts/episode_return": 1e999}'),
    "a row without a time": metrics('{"step": 9, "charts/episode_return": 1.0}'),
    "a time that is null": metrics('{"step": 9, "time": null, "charts/episode_return": 1.0}'),
    "a time that is a text": metrics('{"step": 9, "time": "1", "charts/episode_return": 1.0}'),
    "a step too large": metrics('{"step": 1' + 400 * "0" + ', "time": 1}'),
    "metrics cut off": metrics('{"step": 9, "time": 1, "char'),
    "metrics nested deep": metrics(DEEP),
    "metrics that are none": metrics("\x00\x01\ufffd"),
    "no metrics": lambda run: (run / "metrics.jsonl").unlink(),
    "metrics as a folder": in_place("metrics.jsonl"),
    "metrics as a pipe": pipe("metrics.jsonl"),
    "a status of bytes": status(b"\x00\xff\xfe"),
    "a status cut off": status("{"),
    "a status that is a list": status("[]"),
    "a status nested deep": status(DEEP),
    "a status as a folder": in_place("status.json"),
    "no status": lambda run: (run / "status.json").unlink(),
    "no versions": facts(versions=None),
    "versions that are a list": facts(versions=["torch"]),
    "versions that are numbers": facts(versions={"torch": 2, "numpy": None, "<b>": "\ud800"}),
    "a host that is a number": facts(host=5, commit=["x"]),
    "a state of its own": facts(state="<b>enlightened"),
    "a state that is a list": facts(state=["running"]),
    "a mean that is null": result("summary", mean=None),
    "a mean that is a text": result("summary", mean="high"),
    "a mean that is NaN": result("summary", mean=float("nan")),
    "a mean without end": result("summary", mean=float("inf")),
    "a mean that no float holds": result("summary", mean=10**400),
    "an interval that is null": result("summary", interval=None),
    "an interval of texts": result("summary", interval=["0", "1"]),
    "an interval of one end": result("summary", interval=[0]),
    "an interval of NaN": result("summary", interval=[float("nan"), 1]),
    "a summary that is a text": result("", summary="good"),
    "a success that is a list": result("summary", success=[1]),
    "a success without a rate": result("summary", success={"interval": [0, 1]}),
    "a rate that is a text": result("summary", success={"rate": "all"}),
    "no environment": result("", environment=None),
    "an environment that is a list": result("", environment=[]),
    "a protocol that is a number": result("environment", protocol=7, changed_rules=3),
    "a protocol nobody knows": result(
        "environment", protocol="<b>own", changed_rules={"x": "\ud800"}
    ),
    "rules that are a list": result("environment", protocol="classic", changed_rules=[1]),
    "games that are a text": result("protocol", games="many"),
    "no games": result("protocol", games=0),
    "a protocol that is none": result("", protocol=None),
    "a step that is a text": result("", step="1000"),
    "an evaluation nested deep": lambda run: (run / "evaluations" / "x.json").write_text(DEEP),
    "an evaluation as a folder": in_place("evaluations/x.json"),
    "an evaluation as a pipe": pipe("evaluations/x.json"),
    "the papers' score as a text": result("", protocol={"name": "paper"}, summary={"mean": "1"}),
    "a film as a folder": in_place("videos/x.mp4"),
    "a film as a pipe": pipe("videos/x.mp4"),
    "films as a file": lambda run: (run / "videos").write_text("none"),
}
LEFT_OUT: dict[str, Change] = {
    "a config of bytes": config(b"\x00\xff"),
    "an empty config": config(b""),
    "a config that is a text": config(b"recall"),
    "a config with an unknown field": config(b"agent: ppo\nlearning_rat: 1"),
    "a config nested deep": config(1500 * b"["),
    "a config that ends in a circle": lambda run: (
        (run / "config.yaml").unlink(),
        (run / "config.yaml").symlink_to("config.yaml"),
    ),
    "a network that cannot be built": lambda run: (run / "config.yaml").write_text(
        re.sub(
            r"name: mlp.*?\n(?=\w)",
            "name: nature_cnn\n",
            (run / "config.yaml").read_text(),
            flags=re.S,
        )
    ),
}


def with_policy(run: Path) -> Path:
    (run / "policy").mkdir()
    (run / "policy" / "config.json").write_text('{"metadata": {"step": 1000}}')
    return run


@pytest.mark.parametrize("what", SHOWN)
def test_what_is_odd_in_a_run_is_not_shown_and_the_rest_is(
    what: str, tmp_path: Path, make_run: MakeRun
) -> None:
    odd, good = with_policy(make_run(CORE, seed=1)), make_run(CORE, seed=2)
    SHOWN[what](odd)
    records = read_records([tmp_path / "runs"])
    assert [run.path for run in records.runs] == [odd, good]
    assert records.skipped == {}
    assert records.runs[0].score is not None
    for table in every_table(records, tmp_path):
        for row in table.cells:
            assert all(isinstance(cell.text, str) and cell.text.isprintable() for cell in row)


@pytest.mark.parametrize("what", LEFT_OUT)
def test_a_run_that_cannot_be_reported_on_is_left_out_alone(
    what: str, tmp_path: Path, make_run: MakeRun
) -> None:
    odd, good = make_run(CORE, seed=1), make_run(CORE, seed=2)
    LEFT_OUT[what](odd)
    records = read_records([tmp_path / "runs"])
    assert [run.path for run in records.runs] == [good]
    (why,) = records.skipped.values()
    assert why.isprintable()
    assert len(why) < 400


def test_the_command_reports_on_what_is_left(
    tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = list(SHOWN.values())[::9]
    for seed, change in enumerate([*shown, *LEFT_OUT.values()]):
        change(with_policy(make_run(CORE, seed=seed)))
    main(["report", str(tmp_path / "runs"), "-o", str(tmp_path / "out")])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(LEFT_OUT)
    assert all(line.startswith("fwp-rl: left out: ") for line in said)
    assert len(rows(tmp_path / "out", "runs")) == len(shown)
    assert "<b>" not in (tmp_path / "out" / "report.html").read_text()


def test_a_run_that_nobody_trains_any_more_was_killed(tmp_path: Path, make_run: MakeRun) -> None:
    run = RunDirectory.open(make_run())
    run.write_status("running", step=500, total=1000)
    with run.lock():
        assert read_records([run.path]).runs[0].state == "running"
    assert read_records([run.path]).runs[0].state == "killed"


LABELS = ["$x^$", r"\frac{1$ and $", "_hidden", "<b>&amp;", "", "a\nb", "\ud800", "x" * 100_000]


@pytest.mark.filterwarnings("error")
def test_labels_are_text(tmp_path: Path, make_run: MakeRun) -> None:
    cells = []
    for seed, label in enumerate(LABELS):
        run = make_run(seed=seed, folder=tmp_path / "grid")
        cells.append({"run": run.name, "labels": {"core": label, "task": label, "seed": "1"}})
    (tmp_path / "grid" / "ablation.json").write_text(json.dumps({"cells": cells}))
    path = write_report(read_records([tmp_path / "grid"]), tmp_path / "out", title="$x^$ \ud800")
    shown = [row["variant"] for row in rows(tmp_path / "out", "runs")]
    assert shown == [
        "$x^$",
        r"\frac{1$ and $",
        "_hidden",
        "<b>&amp;",
        "delta_net",
        "a b",
        "?",
        200 * "x",
    ]
    assert "<b>&amp;" in Parsed(path.read_text()).text


@pytest.mark.parametrize(
    "cells", [5, "x", [5], [{}], [{"run": [], "labels": {}}], [{"run": "x", "labels": "y"}]]
)
def test_without_labels_the_runs_speak_for_themselves(
    cells: object, tmp_path: Path, make_run: MakeRun
) -> None:
    make_run(folder=tmp_path / "grid")
    (tmp_path / "grid" / "ablation.json").write_text(json.dumps({"cells": cells}))
    assert read_records([tmp_path / "grid"]).labels == ["delta_net"]


NAMES = [b"javascript:alert(1)", b"a#b", b"x?y", b"%2e%2e", b"<b>\"'", b"a b", b"\xff\xfe", b"$x^$"]
NAMES += [b"data:text,x", b"new\nline", "ünï".encode()]


def test_links_lead_to_the_runs_whatever_their_names(tmp_path: Path, make_run: MakeRun) -> None:
    folder = tmp_path / "runs"
    for seed, name in enumerate(NAMES):
        make_run(CORE, seed=seed).rename(folder / os.fsdecode(name))
    found = set()
    for row in tables.runs(read_records([folder]), folder).cells:
        assert row[-1].link is not None
        target = urlsplit(urljoin((folder / "report.html").resolve().as_uri(), row[-1].link))
        assert (target.scheme, target.query, target.fragment) == ("file", "", "")
        found.add(unquote_to_bytes(target.path))
    assert found == {os.fsencode(folder.resolve() / os.fsdecode(name)) for name in NAMES}


def test_the_name_of_a_run_is_text_in_its_learning_curve(tmp_path: Path, make_run: MakeRun) -> None:
    for name in (b"$x^$", b"\xff\xfe"):
        assert learning_curve(make_run().rename(tmp_path / os.fsdecode(name))).is_file()


MP4, GIF = b"\x00\x00\x00\x20ftypisom", b"GIF89a"


def test_a_film_of_the_run_is_in_the_page_and_none_from_elsewhere(
    tmp_path: Path, make_run: MakeRun
) -> None:
    run, other = make_run(), make_run("lstm")
    for path in (run, other):
        (path / "videos").mkdir()
    (run / "videos" / "film.mp4").write_bytes(MP4 + b"of the run")
    (run / "videos" / "linked.mp4").symlink_to("film.mp4")
    (tmp_path / "secret.mp4").write_bytes(MP4 + b"secret")
    (other / "videos" / "film.mp4").symlink_to(tmp_path / "secret.mp4")
    page = write_report(read_records([run, other]), tmp_path / "out", title="t").read_text()
    inside = b"\n".join(map(base64.b64decode, re.findall(r"base64,([\w+/=]+)", page)))
    assert MP4 + b"of the run" in inside
    assert b"secret" not in inside


@pytest.mark.parametrize("kind", ["mp4", "gif", "a folder", "policy", "png"])
def test_what_is_no_film_of_the_run_is_none(kind: str, tmp_path: Path, make_run: MakeRun) -> None:
    run, elsewhere = make_run(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    secret = elsewhere / f"secret.{'gif' if kind == 'gif' else 'mp4'}"
    secret.write_bytes((GIF if kind == "gif" else MP4) + b"secret")
    if kind == "a folder":
        (run / "videos").symlink_to(elsewhere)
    else:
        (run / "videos").mkdir()
    if kind in ("mp4", "gif"):
        (run / "videos" / secret.name).symlink_to(secret)
    if kind in ("policy", "png"):  # within the run, and no film
        (run / kind).write_bytes(b"secret")
        (run / "videos" / "film.mp4").symlink_to(run / kind)
    assert read_records([run]).runs[0].video is None


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_is_one_line(
    output: str, tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        main(["report", str(make_run()), "-o", str(tmp_path / output)])
    (line,) = capsys.readouterr().err.splitlines()
    assert (ended.value.code, "with -o" in line) == (2, True)
    assert (tmp_path / "file").read_text() == "mine"
