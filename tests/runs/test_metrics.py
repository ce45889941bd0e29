import json
import math
import shutil
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fwp_rl.runs.metrics import WAITING_ROWS, MetricsLogger, last_rows, read_metrics


def log_steps(directory: Path, steps: range, *, start_step: int = 0, scale: float = 1.0) -> None:
    with MetricsLogger(directory, start_step=start_step) as logger:
        for step in steps:
            logger.log(step, {"loss/policy": scale * step, "policy/entropy": 0.5})


def curve(directory: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def steps_of(directory: Path) -> list[int]:
    return [row["step"] for row in read_metrics(directory / "metrics.jsonl")]


def test_both_files_hold_every_value(tmp_path):
    log_steps(tmp_path, range(10, 60, 10))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss/policy"]) for row in rows] == [
        (s, s) for s in range(10, 60, 10)
    ]
    assert curve(tmp_path, "loss/policy") == [(s, s) for s in range(10, 60, 10)]
    assert curve(tmp_path, "policy/entropy") == [(s, 0.5) for s in range(10, 60, 10)]
    times = [row["time"] for row in rows]
    assert times == sorted(times)
    assert times[0] >= 0


def test_no_point_appears_twice_after_a_resume(tmp_path):
    log_steps(tmp_path, range(10, 100, 10))
    log_steps(tmp_path, range(60, 80, 10), start_step=50, scale=-1)
    log_steps(tmp_path, range(70, 90, 10), start_step=60, scale=2)
    expected = [(10, 10), (20, 20), (30, 30), (40, 40), (50, 50), (60, -60), (70, 140), (80, 160)]
    assert curve(tmp_path, "loss/policy") == expected
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss/policy"]) for row in rows] == expected


def test_training_time_goes_on_after_a_resume(tmp_path):
    line = json.dumps({"step": 10, "time": 1000.0})
    (tmp_path / "metrics.jsonl").write_text(line + "\n")
    log_steps(tmp_path, range(20, 30, 10), start_step=10)
    assert 1000 <= read_metrics(tmp_path / "metrics.jsonl")[-1]["time"] < 1010


@pytest.mark.parametrize(
    "garbage", ['{"step": 40, "loss', '{"step": 40', "\x00" * 30, "[1]", '"x"']
)
def test_a_line_cut_by_a_kill_is_dropped(tmp_path, garbage):
    log_steps(tmp_path, range(10, 40, 10))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(garbage)
    assert steps_of(tmp_path) == [10, 20, 30]
    log_steps(tmp_path, range(40, 50, 10), start_step=30)
    assert steps_of(tmp_path) == [10, 20, 30, 40]
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line)


def test_a_truncated_event_file_costs_only_its_end(tmp_path):
    log_steps(tmp_path, range(10, 100, 10))
    (events,) = tmp_path.glob("events.out.tfevents.*")
    events.write_bytes(events.read_bytes()[:-7])
    log_steps(tmp_path, range(90, 110, 10), start_step=80)
    assert [step for step, _ in curve(tmp_path, "loss/policy")] == list(range(10, 110, 10))


def test_event_files_are_in_order_whatever_the_clock_says(tmp_path, monkeypatch):
    log_steps(tmp_path, range(10, 30, 10))
    monkeypatch.setattr("time.time", lambda: 1.0)
    log_steps(tmp_path, range(30, 50, 10), start_step=20)
    assert [step for step, _ in curve(tmp_path, "loss/policy")] == [10, 20, 30, 40]


def test_values_that_are_not_finite_keep_their_name(tmp_path):
    with MetricsLogger(tmp_path) as logger:
        logger.log(1, {"a": math.nan, "b": -math.inf, "c": 2})
    line = (tmp_path / "metrics.jsonl").read_text()
    row = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (row["a"], row["b"], row["c"]) == (None, None, 2.0)
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(row["a"])


def test_no_file_no_rows(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


READS = """
import sys
import fwp_rl.ablation.plan, fwp_rl.ablation.runner, fwp_rl.reports.page, fwp_rl.reports.records
print([name for name in sys.modules
       if name.startswith(("tensorboard", "fwp_rl.training", "fwp_rl.agents"))])
"""


def test_whoever_reads_runs_loads_no_trainer_and_no_tensorboard():
    said = subprocess.run([sys.executable, "-c", READS], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_every_line_survives_a_kill(tmp_path):
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from fwp_rl.runs.metrics import MetricsLogger

        logger = MetricsLogger(Path(sys.argv[1]))
        for step in range(5):
            logger.log(step, {"x": step})
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert steps_of(tmp_path) == list(range(5))
    assert [step for step, _ in curve(tmp_path, "x")] == list(range(5))


@contextmanager
def no_room(limit: int) -> Iterator[None]:
    """No file can grow beyond so many bytes, as on a full disk."""
    resource = pytest.importorskip("resource")  # Windows has none
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_stops_tensorboard_but_not_the_run(tmp_path):
    warnings = []
    with MetricsLogger(tmp_path, warn=warnings.append) as logger:
        (events,) = tmp_path.glob("events.out.tfevents.*")
        logger.log(1, {"x": 1})
        # the event file is the longer one: it meets the limit, metrics.jsonl does not
        with no_room(events.stat().st_size + 20):
            logger.log(2, {"x": 2})
            logger.log(3, {"x": 3})
        logger.log(4, {"x": 4})
    assert len(warnings) == 1
    assert "TensorBoard" in warnings[0]
    assert steps_of(tmp_path) == [1, 2, 3, 4]
    log_steps(tmp_path, range(5, 6), start_step=4)
    assert [step for step, _ in curve(tmp_path, "x")] == [1], "the file is readable up to there"


def of_the_rows(warnings: list[str]) -> list[str]:
    return [text for text in warnings if "TensorBoard" not in text]


def test_rows_that_find_no_room_wait_for_it(tmp_path):
    said = []
    with MetricsLogger(tmp_path, warn=said.append) as logger:
        logger.log(1, {"x": 1})
        half_a_line_more = (tmp_path / "metrics.jsonl").stat().st_size + 10
        with no_room(half_a_line_more):
            for step in (2, 3, 4):
                logger.log(step, {"x": step})
        assert steps_of(tmp_path) == [1]
        logger.log(5, {"x": 5})
        assert steps_of(tmp_path) == [1, 2, 3, 4, 5]
        with no_room(half_a_line_more):
            logger.log(6, {"x": 6})
        logger.log(7, {"x": 7})
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6, 7]
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
    failures, recoveries = of_the_rows(said)[::2], of_the_rows(said)[1::2]
    assert ["cannot be written" in text for text in failures] == [True, True]
    assert ["is written again" in text for text in recoveries] == [True, True]


def test_the_newest_rows_wait_and_the_others_are_counted(tmp_path):
    said = []
    with MetricsLogger(tmp_path, warn=said.append) as logger:
        logger.log(0, {})
        with no_room((tmp_path / "metrics.jsonl").stat().st_size):
            for step in range(1, WAITING_ROWS + 8):
                logger.log(step, {})
        logger.log(WAITING_ROWS + 8, {})
    assert steps_of(tmp_path) == [0, *range(9, WAITING_ROWS + 9)]
    assert "8 rows were too many to wait" in said[-1]


def test_rows_that_never_found_room_are_counted_at_the_end(tmp_path):
    said = []
    logger = MetricsLogger(tmp_path, warn=said.append)
    with no_room(10):
        for step in range(3):
            logger.log(step, {})
        logger.close()
    assert "lacks 3 rows" in said[-1]


@pytest.mark.parametrize("what", ["metrics.jsonl", "."])
def test_what_vanishes_under_a_run_is_made_anew(tmp_path, what):
    directory = tmp_path / "run"
    directory.mkdir()
    said = []
    with MetricsLogger(directory, warn=said.append) as logger:
        logger.log(1, {"x": 1})
        if what == ".":
            shutil.rmtree(directory)
            logger.log(2, {"x": 2})
            assert "cannot be written (No such file" in of_the_rows(said)[0]
            directory.mkdir()  # as the next checkpoint does
        else:
            (directory / what).unlink()
        for step in (3, 4):
            logger.log(step, {"x": step})
    assert steps_of(directory) == [2, 3, 4][what != "." :]
    assert sum("vanished" in text for text in said) == 1


def test_a_pause_is_no_training_time(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with MetricsLogger(tmp_path) as logger:
        now += 2
        logger.log(1, {})
        now += 50
        logger.pause(50)
        logger.log(1, {"evaluation/mean_return": 3.0})
        now += 1
        logger.log(2, {})
    assert [row["time"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [2, 2, 3]
    assert curve(tmp_path, "evaluation/mean_return") == [(1, 3.0)]


ODD_LINES = [
    '{"step": 20, "time": null, "x": 1}',
    '{"step": 20, "time": "soon", "x": 1}',
    '{"step": 20, "time": NaN, "x": 1}',
    '{"step": 20, "time": 1e999, "x": 1}',
    '{"step": 20, "x": 1}',
    '{"step": 20, "time": 2, "x": "high"}',
    '{"step": 20, "time": 2, "x": {"mean": 1}}',
    '{"step": 20, "time": 2, "x": true, "5": 6, "": 1}',
    '{"step": 20, "time": 2, "x": 1' + 400 * "0" + "}",
    '{"step": 2' + 400 * "0" + ', "time": 2}',
    '{"step": 2' + 5000 * "0" + ', "time": 2}',
    '{"step": true, "time": 2}',
    '{"step": -1, "time": 2}',
    '{"step": "20", "time": 2}',
    '{5: 6, "step": 20}',
    '{"step": 20, "time": 2, "x": ' + 100_000 * "[" + 100_000 * "]" + "}",
    100_000 * '{"step":',
    '{"step": 20, "time": 2, "x": 1}' + 2_000_000 * " ",
    "\x00" * 5000,
    "\ufeff{}",
]


@pytest.mark.parametrize("odd", ODD_LINES, ids=range(len(ODD_LINES)))
def test_odd_lines_are_read_or_left_out(tmp_path, odd):
    first = '{"step": 10, "time": 7.5, "x": 0.5}\n'
    (tmp_path / "metrics.jsonl").write_text(f"{first}{odd}\n")
    for names in (None, ("x",)):
        for row in read_metrics(tmp_path / "metrics.jsonl", names=names):
            assert all(isinstance(float(value), float) for value in row.values())
    assert all(row["step"] in (10, 20) for row in last_rows(tmp_path / "metrics.jsonl"))
    log_steps(tmp_path, range(30, 40, 10), start_step=20)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows[0] == {"step": 10, "time": 7.5, "x": 0.5}
    assert rows[-1]["step"] == 30
    assert 2 <= rows[-1]["time"] < 8.5


def test_a_last_line_without_its_end_does_not_swallow_the_next(tmp_path):
    log_steps(tmp_path, range(10, 40, 10))
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-1])
    log_steps(tmp_path, range(40, 50, 10), start_step=30)
    assert steps_of(tmp_path) == [10, 20, 30, 40]


def test_rows_in_no_order_are_kept_up_to_the_step(tmp_path):
    lines = [f'{{"step": {step}, "time": 1.0}}\n' for step in (10, 90, 20, 30, 80)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    log_steps(tmp_path, range(40, 50, 10), start_step=30)
    assert steps_of(tmp_path) == [10, 20, 30, 40]


def test_to_resume_takes_no_room(tmp_path):
    log_steps(tmp_path, range(10, 100, 10))
    said = []
    with no_room(10):
        logger = MetricsLogger(tmp_path, start_step=50, warn=said.append)
        assert steps_of(tmp_path) == [10, 20, 30, 40, 50]
    logger.log(60, {})
    logger.close()
    assert steps_of(tmp_path) == [10, 20, 30, 40, 50, 60]


@pytest.fixture(scope="module")
def long_file(tmp_path_factory):
    """5 MB."""
    path = tmp_path_factory.mktemp("long") / "metrics.jsonl"
    with path.open("w") as file:
        for step in range(1, 3001):
            row = {"step": step, "time": step / 10, "x": float(step)}
            if step % 1000 == 500:
                row["rare"] = float(step)
            row |= {f"other/{i:02}": 0.123456789012345 for i in range(50)}
            file.write(f"{json.dumps(row)}\n")
    return path


def test_a_long_file_takes_little_memory(long_file, tmp_path):
    copy = tmp_path / "metrics.jsonl"
    shutil.copy(long_file, copy)
    tracemalloc.start()
    try:
        rows = read_metrics(long_file, names=("x",), limit=500)
        read = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        MetricsLogger(tmp_path, start_step=2500, logger="tensorboard").close()
        resumed = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 250 <= len(rows) <= 500
    assert read < 1_000_000
    assert resumed < 5_000_000
    assert steps_of(tmp_path) == list(range(1, 2501))


@pytest.mark.parametrize("limit", [1, 2, 3, 499, 2999, 3000, 10**6])
def test_thinned_rows_are_even_and_end_with_the_last(long_file, limit):
    steps = [row["step"] for row in read_metrics(long_file, names=("x",), limit=limit)]
    assert min(limit, 3000) / 2 <= len(steps) <= limit
    assert steps[-1] == 3000
    between = {after - before for before, after in pairwise(steps[:-1])}
    assert len(between) <= 1
    assert steps[0] == (1 if limit > 1 else 3000)


def test_rows_without_the_names_are_left_out_but_for_the_last(long_file):
    rows = read_metrics(long_file, names=("rare", "never"))
    assert [row["step"] for row in rows] == [500, 1500, 2500, 3000]
    assert rows[0] == {"step": 500, "time": 50.0, "rare": 500.0}
    assert rows[-1] == {"step": 3000, "time": 300.0}
