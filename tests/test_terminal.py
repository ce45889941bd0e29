import io
import json
import math
import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from rich.console import Console
from rich.table import Table

from fwp_rl import terminal as module
from fwp_rl.terminal import (
    Progress,
    columns_that_fit,
    console_for,
    format_count,
    format_seconds,
    say_next,
)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


METRICS = {
    "charts/episode_return": 31.4159,
    "policy/entropy": 1.23456,
    "value/explained_variance": math.nan,
    "time/acting": 0.4,
    "time/learning": 0.35,
    "loss/policy": 7.0,
}


def test_plain_lines_come_every_ten_seconds(clock):
    out = console(terminal=False)
    with Progress(10_000, title="Pong, lstm", console=out) as progress:
        for second in range(1, 31):
            clock.now += 1
            progress.update(100 * second, METRICS)
    lines = out.file.getvalue().splitlines()
    assert lines[0] == "Pong, lstm"
    assert lines[-1] == (
        "2.1k/10k 21.0% | 100 steps/s | 0:00:21 elapsed | 0:01:19 left | return 31.42 | "
        "entropy 1.235 | explained variance - | acting 40% | learning 35%"
    )
    assert [line.split("/")[0] for line in lines[1:]] == ["100", "1.1k", "2.1k"]


def test_the_last_update_is_always_printed(clock):
    out = console(terminal=False)
    with Progress(200, title="x", console=out) as progress:
        clock.now += 1
        progress.update(100, {})
        clock.now += 1
        progress.update(210, {})
    assert "210/200 100.0% | 105 steps/s | 0:00:02 elapsed | 0:00:00 left" in out.file.getvalue()


def test_earlier_steps_of_a_resumed_run_are_no_speed(clock):
    out = console(terminal=False)
    with Progress(1_000_000, title="x", start_step=500_000, console=out) as progress:
        clock.now += 10
        progress.update(501_000, {})
    assert "50.1% | 100 steps/s | 0:00:10 elapsed | 1:23:10 left" in out.file.getvalue()


def test_the_speed_is_of_the_last_minute(clock):
    out = console(terminal=False)
    with Progress(10**6, title="x", console=out) as progress:
        step = 0
        for speed in [1000] * 60 + [10] * 120:
            clock.now += 1
            step += speed
            progress.update(step, {})
    assert "| 10 steps/s |" in out.file.getvalue().splitlines()[-1]


def test_messages_are_printed_as_they_are(clock):
    for terminal in (False, True):
        out = console(terminal=terminal)
        with Progress(100, title="x", console=out) as progress:
            progress.message("saved runs/[bold]x" + "y" * 150)
        assert "saved runs/[bold]x" + "y" * 150 in out.file.getvalue()


def test_the_terminal_shows_bar_and_metrics(clock):
    out = console(terminal=True)
    with Progress(10_000, title="Pong, lstm", console=out) as progress:
        clock.now += 10
        progress.update(1234, METRICS)
    text = out.file.getvalue()
    for part in ("Pong, lstm", "━", "12.3%", "1.23k/10k steps", "123 steps/s", "return 31.42"):
        assert part in text


def test_plain_can_be_asked_for_in_a_terminal(clock):
    out = console(terminal=True)
    with Progress(100, title="x", plain=True, console=out) as progress:
        clock.now += 1
        progress.update(50, {})
    assert "\x1b" not in out.file.getvalue()
    assert "50/100 50.0%" in out.file.getvalue()


def test_what_is_counted_has_its_name_in_the_terminal(clock):
    out = console(terminal=True)
    with Progress(16, title="Evaluating", unit="games", console=out) as progress:
        clock.now += 1
        progress.update(8, {})
    assert "8/16 games" in out.file.getvalue()
    assert "steps" not in out.file.getvalue()


def test_a_pause_is_left_out_of_the_speed(clock):
    out = console(terminal=False)
    with Progress(10_000, title="x", console=out) as progress:
        for step in range(100, 1100, 100):
            clock.now += 1
            progress.update(step, {})
        clock.now += 500
        progress.pause(500)
        clock.now += 1
        progress.update(1100, {})
    assert "| 100 steps/s | 0:08:31 elapsed | 0:01:29 left" in out.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_messages_of_many_threads_stay_whole(terminal):
    out = console(terminal=terminal)
    with Progress(100, title="x", console=out) as progress:
        threads = [
            threading.Thread(target=lambda n=n: [progress.message(f"<{n}-{i}>") for i in range(20)])
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for step in range(20):
            progress.update(step, METRICS)
        for thread in threads:
            thread.join()
    text = out.file.getvalue()
    assert all(f"<{n}-{i}>" in text for n in range(4) for i in range(20))


def test_what_cannot_be_formatted_ends_nothing(clock):
    for terminal in (False, True):
        with Progress(100, title="x", console=console(terminal=terminal)) as progress:
            clock.now += 60
            progress.update(50, {"policy/entropy": "high"})


WORK = """
import sys
from fwp_rl.terminal import Progress
with Progress(9, title="Pong → 50 % █", plain="plain" in sys.argv) as progress:
    for step in range(1, 10):
        progress.update(step, {"policy/entropy": 1.0})
        progress.message(f"{step} → █ " + 9000 * "x")
print("printed afterwards")
sys.stderr.write("done")
"""


def shell(command: str, *arguments: str, **environment: str) -> CompletedProcess[str]:
    """A command of bash, to which $0 is Python; its exit code is that of a pipe's first part."""
    return subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}", sys.executable, *arguments],
        env={**os.environ, "WORK": WORK, **environment},
        capture_output=True,
        encoding=environment.get("PYTHONIOENCODING", "utf-8"),
        timeout=100,
    )


def work(redirect: str, **environment: str) -> CompletedProcess[str]:
    """WORK with its standard output where the shell leads it."""
    return shell(f'"$0" -c "$WORK" {redirect}', **environment)


ELSEWHERE = ["| head -1", "| true", ">/dev/full", ">&-"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's devices")
@pytest.mark.parametrize("redirect", ELSEWHERE)
def test_work_goes_on_where_nobody_takes_its_display(redirect):
    done = work(redirect)
    assert (done.stderr, done.returncode) == ("done", 0)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_what_an_encoding_lacks_is_a_question_mark(encoding):
    environment = {"PYTHONIOENCODING": encoding, "COLUMNS": "1", "LC_ALL": "C"}
    done = work("| cat", **environment)
    assert (done.stderr, done.returncode) == ("done", 0)
    assert ("Pong ? 50 %" in done.stdout) == (encoding != "utf-8")
    assert "printed afterwards" in done.stdout


@pytest.mark.parametrize(("encoding", "columns"), [("ascii", "1"), ("utf-8", "80")])
@pytest.mark.parametrize("plain", [(), ("plain",)])
def test_a_terminal_of_any_kind(plain, encoding, columns):
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    environment = {"PYTHONIOENCODING": encoding, "COLUMNS": columns, "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, *plain],
        env={**os.environ, **environment},
        stdout=slave,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 1 << 16):
            shown += part
    except OSError:  # how Linux ends a terminal
        pass
    assert process.communicate(timeout=60)[1] == "done"
    assert process.returncode == 0
    os.close(master)
    assert b"printed afterwards" in shown


@pytest.mark.parametrize("plain", [(), ("plain",)])
def test_a_terminal_that_goes_away(plain):
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, *plain],
        env={**os.environ, "TERM": "xterm"},
        stdout=slave,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    os.close(slave)
    os.read(master, 1)
    os.close(master)
    assert process.communicate(timeout=60)[1] == "done"
    assert process.returncode == 0


@pytest.mark.slow
def test_a_training_ends_well_where_nobody_takes_its_display(tmp_path):
    flags = f"--total-steps 600 --evaluation-games 4 --run-dir {tmp_path}/run"
    train = f'"$0" -m fwp_rl train recall core:feedforward {flags}'
    done = shell(f"{train} | head -1", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"
    assert (tmp_path / "run" / "curve.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "encoding"), [("list presets", "ascii"), ("train recall --help", "cp1252")]
)
def test_commands_say_what_they_can_in_any_encoding(command, encoding):
    done = shell(f'"$0" -m fwp_rl {command}', PYTHONIOENCODING=encoding)
    assert (done.stderr, done.returncode) == ("", 0)
    assert "recall" in done.stdout


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (12345, "12.3k"),
        (999499, "999k"),
        (999999, "1M"),
        (2500000, "2.5M"),
        (10**7, "10M"),
        (3 * 10**9, "3G"),
    ],
)
def test_counts(number, text):
    assert format_count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.9, "0:00:59"), (3661, "1:01:01"), (math.inf, "-")]
)
def test_seconds(seconds, text):
    assert format_seconds(seconds) == text


COLUMNS = {"name": ["delta_net"], "what": ["w" * 90], "speed": ["1"], "left": ["0:00:01"]}


@pytest.mark.parametrize("width", range(10, 150, 7))
def test_the_columns_that_fit_do_and_no_spare_one_is_left_out_for_nothing(width):
    spare, wrapped = ["left", "speed"], {"what": 20}
    names = columns_that_fit(COLUMNS, width, spare=spare, wrapped=wrapped)
    taken = {"name": 9, "what": 20, "speed": 5, "left": 7}

    def needed(shown):
        return 1 + sum(3 + taken[name] for name in shown)

    assert needed(names) <= width
    if not names:
        assert needed(["name", "what"]) > width
    else:
        gone = [name for name in spare if name not in names]
        assert gone == spare[: len(gone)]
        assert not gone or needed([*names, gone[-1]]) > width


def test_what_is_next_can_be_copied(capsys):
    say_next("watch", Path("runs/it's mine"))
    said = capsys.readouterr()
    assert said.out == ""
    _, *words = shlex.split(said.err)
    assert words == ["fwp-rl", "watch", "runs/it's mine"]


def test_what_no_terminal_shows_is_not_cut():
    out = io.StringIO()
    table = Table("a")
    table.add_row("x" * 5000)
    console_for(out).print(table)
    assert "x" * 5000 in out.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["train recall --help | head -c 1", "list games | true", "list games | head -1"]
)
def test_a_command_whose_reader_has_gone_ends_in_silence(command):
    done = shell(f'"$0" -m fwp_rl {command}')
    assert (done.stderr, done.returncode) == ("", 0)
