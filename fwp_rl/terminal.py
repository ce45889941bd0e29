"""What a person sees of a run while it trains."""

import contextlib
import io
import math
import os
import shlex
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TextIO, cast

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fwp_rl.imports import import_flags

__all__ = [
    "Output",
    "Progress",
    "columns_that_fit",
    "console_for",
    "format_count",
    "format_seconds",
    "say_next",
]

SHOWN = {
    "charts/episode_return": ("return", "{:.4g}"),
    "charts/success_rate": ("success", "{:.0%}"),
    "validation/score": ("validation", "{:.4g}"),
    "task/accuracy": ("accuracy", "{:.3f}"),
    "policy/entropy": ("entropy", "{:.3f}"),
    "policy/epsilon": ("epsilon", "{:.3f}"),
    "value/explained_variance": ("explained variance", "{:.2f}"),
    "time/acting": ("acting", "{:.0%}"),
    "time/environment": ("environment", "{:.0%}"),
    "time/learning": ("learning", "{:.0%}"),
}
"""Metric → its label and format, in the order shown; the time/ ones are shares of the whole."""

PLAIN_INTERVAL = 10.0
"""Seconds between two lines where there is no terminal."""

WHOLE = 10_000
"""Columns of what no terminal shows."""

SPEED_WINDOW = 60.0
"""Seconds over which the speed is averaged."""


class Progress:
    """A bar with the latest metrics in a terminal, a line every ten seconds elsewhere.

        with Progress(total_steps, title="Breakout, delta_net") as progress:
            progress.update(step, metrics)

    Work never ends for its display: what cannot be shown is left out.
    """

    def __init__(
        self,
        total: int,
        *,
        title: str,
        unit: str = "steps",
        start_step: int = 0,
        plain: bool = False,
        console: Console | None = None,
    ) -> None:
        """
        unit        what is counted
        start_step  where a resumed run starts: its earlier steps count as progress, not as speed
        plain       lines even in a terminal
        console     by default standard output's
        """
        self._total = total
        self._title = title
        self._unit = unit
        self._output = Output() if console is None and sys.stdout is not None else None
        self._console = console or Console(file=cast("TextIO | None", self._output))
        self._plain = plain or not self._console.is_terminal
        self._step = start_step
        self._metrics: dict[str, float] = {}
        self._started = time.monotonic()
        self._history = deque([(self._started, start_step)])
        self._printed = -math.inf
        self._lock = threading.RLock()
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4)

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show this step. A metric that is missing keeps the value shown before."""
        now = time.monotonic()
        self._step = step
        self._metrics |= metrics
        self._history.append((now, step))
        while len(self._history) > 2 and now - self._history[1][0] > SPEED_WINDOW:
            self._history.popleft()
        if self._plain and (now - self._printed >= PLAIN_INTERVAL or step >= self._total):
            self._printed = now
            self._attempt(lambda: self._print(self._line()))

    def pause(self, seconds: float) -> None:
        """Leave the last ``seconds`` out of the speed: they were no training."""
        self._history = deque((then + seconds, step) for then, step in self._history)

    def message(self, text: str) -> None:
        """Print a line, above the bar where there is one. Any thread may call this."""
        self._attempt(lambda: self._print(text))

    def __enter__(self) -> "Progress":
        if self._plain:
            self.message(self._title)
        else:
            self._attempt(lambda: self._live.start(refresh=True))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._plain:
            self._attempt(self._live.stop)
        if self._output is not None:
            self._output.leave()

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _attempt(self, show: Callable[[], object]) -> None:
        with self._lock, contextlib.suppress(Exception, SystemExit):
            show()

    @property
    def _speed(self) -> float:
        """Steps per second; 0 before the first update."""
        (then, earlier), (now, step) = self._history[0], self._history[-1]
        return (step - earlier) / (now - then) if now > then else 0.0

    @property
    def _fraction(self) -> float:
        return min(self._step / self._total, 1.0)

    def _facts(self) -> list[tuple[str, str]]:
        """Speed and times, as label and value."""
        elapsed = time.monotonic() - self._started
        left = (self._total - self._step) / self._speed if self._speed else math.inf
        return [
            (f"{self._unit}/s", f"{self._speed:,.{0 if self._speed >= 10 else 2}f}"),
            ("elapsed", format_seconds(elapsed)),
            ("left", format_seconds(max(left, 0.0))),
        ]

    def _measures(self) -> list[tuple[str, str]]:
        """The metrics that are known, as label and value."""
        return [
            (label, form.format(self._metrics[name]) if math.isfinite(self._metrics[name]) else "-")
            for name, (label, form) in SHOWN.items()
            if name in self._metrics
        ]

    def _counts(self) -> str:
        return f"{format_count(self._step)}/{format_count(self._total)}"

    def _line(self) -> str:
        facts = [f"{value} {label}" for label, value in self._facts()]
        measures = [f"{label} {value}" for label, value in self._measures()]
        return " | ".join([f"{self._counts()} {self._fraction:.1%}", *facts, *measures])

    def _render(self) -> Group:
        bar = Table.grid(padding=(0, 2, 0, 0), expand=True)
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        bar.add_row(
            Text(self._title, style="bold"),
            ProgressBar(total=self._total, completed=min(self._step, self._total)),
            f"{self._fraction:.1%}",
        )
        facts, measures = Text(), Text()
        for label, value in ((self._unit, self._counts()), *self._facts()):
            facts.append(value).append(f" {label}   ", style="dim")
        for label, value in self._measures():
            measures.append(f"{label} ", style="dim").append(f"{value}   ")
        return Group(bar, facts, measures)


class Output(io.TextIOBase):
    """Standard output for a display: whatever happens to it, writing raises nothing.

    What its encoding lacks is a question mark. A failure is tried again with the next text, for a
    full disk may have room by then.
    """

    def __init__(self) -> None:
        # a display inside another one writes past what that one has put in its place
        self._stream: TextIO = getattr(sys.stdout, "rich_proxied_file", sys.stdout)
        self._failed = False

    @property
    def encoding(self) -> str:  # type: ignore[override]  # an attribute there
        return self._stream.encoding or "utf-8"

    def isatty(self) -> bool:
        with contextlib.suppress(ValueError):  # closed
            return self._stream.isatty()
        return False

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        self._failed = False
        self._try(lambda: self._stream.write(self._encodable(text)))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def leave(self) -> None:
        """Where the last text failed, let what is still to be said go nowhere: Python would fail
        for it at its end."""
        if self._failed:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def _encodable(self, text: str) -> str:
        return text.encode(self.encoding, "replace").decode(self.encoding)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except (OSError, ValueError):  # ValueError: closed
            self._failed = True


class _Console(Console):
    """One that leaves a pipe without a reader to the command that prints into it."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console_for(stream: TextIO | None = None, *, width: int | None = None) -> Console:
    """A console that prints text as it is: as wide as its terminal, and, where a file or a pipe
    takes it, so wide that nothing is cut.

    stream  by default standard output
    width   of a terminal, where it is not to be asked
    """
    console = _Console(file=stream, width=width, markup=False, highlight=False)
    if not console.is_terminal and width is None:
        console.width = WHOLE
    return console


def columns_that_fit(
    columns: Mapping[str, Sequence[str]],
    width: int,
    *,
    spare: Sequence[str],
    wrapped: Mapping[str, int] | None = None,
) -> list[str]:
    """Names of the columns of a table that fit into a width, empty where not even those fit that
    are not spare.

    columns  name → cells
    spare    columns to go without, the first to go first
    wrapped  column whose cells may be wrapped → characters of a line, at least
    """
    widths = {name: max(map(len, [name, *cells])) for name, cells in columns.items()}
    for name, least in (wrapped or {}).items():
        if name in widths:
            widths[name] = min(widths[name], least)
    left = list(spare)
    while (needed := sum(widths.values()) + 3 * len(widths) + 1) > width and left:
        del widths[left.pop(0)]
    return list(widths) if needed <= width else []


def say_next(command: str, *arguments: object) -> None:
    """Say on standard error what may be done next: a line to copy. Standard output is for what was
    asked for."""
    words = shlex.join(["fwp-rl", command, *map(str, arguments)])
    with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody is there to read it
        print(f"Next: {words}{import_flags()}", file=sys.stderr)


def format_count(number: float) -> str:
    """``999``, ``12.3k``, ``4.56M``, ``1.2G``: three digits, no trailing zeros."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:  # what would round up to a four-digit number
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def format_seconds(seconds: float) -> str:
    """``0:04:59``, or ``-`` for what is not known."""
    if not math.isfinite(seconds):
        return "-"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"
