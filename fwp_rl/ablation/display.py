"""What a person sees of an ablation: a live table in a terminal, plain lines elsewhere."""

import math
import time
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fwp_rl.ablation.folder import CellProgress
from fwp_rl.ablation.grid import Cell
from fwp_rl.runs.results import Score
from fwp_rl.terminal import format_count, format_seconds

__all__ = ["Display", "Row", "in_words"]

PLAIN_INTERVAL = 30.0
"""Seconds between two summaries where there is no terminal."""
_ORDER = ("running", "busy", "failed", "finished", "waiting")
_STYLES = {"running": "bold", "failed": "red", "finished": "green", "waiting": "dim"}


@dataclass(kw_only=True)
class Row:
    """What is known of a cell."""

    cell: Cell
    state: str
    progress: CellProgress = field(default_factory=CellProgress)
    score: Score | None = None

    @property
    def fraction(self) -> float:
        if self.state == "finished":
            return 1.0
        return min(self.progress.step / self.cell.config.total_steps, 1.0)


def in_words(score: Score) -> str:
    """``0.85 in 32 games at 40.1k``: mean return, games, and the step of the checkpoint."""
    if score.games is None:
        return f"{score.mean:.4g} at {format_count(score.step)}"
    return f"{score.mean:.4g} in {score.games} games at {format_count(score.step)}"


class Display:
    """with Display(title=...) as display: display.update(rows, seconds_left)

    One whose reader has gone, or whose disk is full, falls silent: the cells go on.
    """

    def __init__(self, *, title: str, plain: bool = False, console: Console | None = None) -> None:
        self._title = title
        self._console = console or Console(markup=False, highlight=False)
        self._plain = plain or not self._console.is_terminal
        self._silent = False
        self._printed = -math.inf
        self._rows: list[Row] = []
        self._left: float | None = None
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=2)

    def __enter__(self) -> "Display":
        if self._plain:
            self.message(self._title)
        else:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._plain:
            self._live.stop()

    def message(self, text: str) -> None:
        """Print a line, above the table where there is one."""
        if self._silent:
            return
        try:
            self._console.print(text, soft_wrap=True)
        except (OSError, SystemExit):  # rich's answer to a broken pipe is to leave
            self._silent = True

    def update(self, rows: list[Row], left: float | None, *, final: bool = False) -> None:
        """left  seconds of training that are left, None where it cannot be told"""
        self._rows, self._left = rows, left
        now = time.monotonic()
        if self._plain and (final or now - self._printed >= PLAIN_INTERVAL):
            self._printed = now
            self.message(self._summary())
            for row in rows:
                if row.state == "running":
                    self.message("  " + " | ".join([row.cell.name, *self._facts(row)[1:]]))

    def _summary(self) -> str:
        counts = [
            f"{sum(row.state == state for row in self._rows)} {state}"
            for state in _ORDER
            if any(row.state == state for row in self._rows)
        ]
        left = "unknown" if self._left is None else format_seconds(self._left)
        return f"{len(self._rows)} cells: {', '.join(counts)}; time left {left}"

    def _facts(self, row: Row) -> list[str]:
        """State, progress, steps, speed, time left, return."""
        progress, total = row.progress, row.cell.config.total_steps
        rate = progress.rate if row.state == "running" else None
        left = (total - progress.step) / rate if rate else math.nan
        known = progress.episode_return
        latest = f"{known:.4g}" if known is not None and math.isfinite(known) else "-"
        return [
            row.state,
            f"{row.fraction:.0%}",
            f"{format_count(progress.step)}/{format_count(total)}",
            f"{rate:,.0f}/s" if rate else "-",
            format_seconds(max(left, 0.0)) if rate else "-",
            in_words(row.score) if row.state == "finished" and row.score else latest,
        ]

    def _render(self) -> Group:
        table = Table(title=self._title, title_justify="left")
        table.add_column("cell", no_wrap=True)
        for name in ("state", "done", "steps", "speed", "left", "return"):
            table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
        rows = sorted(self._rows, key=lambda row: _ORDER.index(row.state))
        room = max(self._console.height - 8, 4)
        for row in rows[:room]:
            table.add_row(row.cell.name, *self._facts(row), style=_STYLES.get(row.state, ""))
        hidden = len(rows) - room
        more = [Text(f"... and {hidden} more cells", style="dim")] if hidden > 0 else []
        return Group(table, *more, Text(self._summary()))
