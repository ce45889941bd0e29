import io
import math

import pytest
from rich.console import Console

from fwp_rl import terminal as module
from fwp_rl.terminal import Progress, format_count, format_seconds


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
