import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fwp_rl.runs.metrics import MetricsLogger, read_metrics


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


def test_a_full_disk_stops_tensorboard_but_not_the_run(tmp_path):
    resource = pytest.importorskip("resource")  # Windows has none
    warnings = []
    with MetricsLogger(tmp_path, warn=warnings.append) as logger:
        (events,) = tmp_path.glob("events.out.tfevents.*")
        logger.log(1, {"x": 1})
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        # the event file is the longer one: it meets the limit, metrics.jsonl does not
        resource.setrlimit(resource.RLIMIT_FSIZE, (events.stat().st_size + 20, before[1]))
        try:
            logger.log(2, {"x": 2})
            logger.log(3, {"x": 3})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        logger.log(4, {"x": 4})
    assert len(warnings) == 1
    assert "TensorBoard" in warnings[0]
    assert steps_of(tmp_path) == [1, 2, 3, 4]
    log_steps(tmp_path, range(5, 6), start_step=4)
    assert [step for step, _ in curve(tmp_path, "x")] == [1], "the file is readable up to there"


def test_a_full_disk_names_metrics_jsonl(tmp_path):
    resource = pytest.importorskip("resource")
    with MetricsLogger(tmp_path) as logger:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        try:
            with pytest.raises(OSError, match=r"metrics\.jsonl"):
                logger.log(1, {"x": 1})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
