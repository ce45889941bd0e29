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
from fwp_rl.terminal import columns_that_fit, console_for, format_count, format_seconds

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
        self._console = console or console_for()
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
                    self.message("  " + " | ".join([row.cell.name, *self._facts(row).values()]))

    def _summary(self) -> str:
        counts = [
            f"{sum(row.state == state for row in self._rows)} {state}"
            for state in _ORDER
            if any(row.state == state for row in self._rows)
        ]
        left = "unknown" if self._left is None else format_seconds(self._left)
        return f"{len(self._rows)} cells: {', '.join(counts)}; time left {left}"

    def _facts(self, row: Row) -> dict[str, str]:
        """State, progress, steps, speed, time left, return."""
        progress, total = row.progress, row.cell.config.total_steps
        evaluating = row.state == "running" and progress.step >= total
        rate = progress.rate if row.state == "running" and not evaluating else None
        left = (total - progress.step) / rate if rate else math.nan
        known = progress.episode_return
        latest = f"{known:.4g}" if known is not None and math.isfinite(known) else "-"
        return {
            "state": "evaluating" if evaluating else row.state,
            "done": f"{row.fraction:.0%}",
            "steps": f"{format_count(progress.step)}/{format_count(total)}",
            "speed": f"{rate:,.0f} steps/s" if rate else "-",
            "left": format_seconds(max(left, 0.0)) if rate else "-",
            "return": in_words(row.score) if row.state == "finished" and row.score else latest,
        }

    def _render(self) -> Group:
        rows = sorted(self._rows, key=lambda row: _ORDER.index(row.state))
        room = max(self._console.height - 8, 4)
        shown = [{"cell": row.cell.name, **self._facts(row)} for row in rows[:room]]
        names = ("cell", "state", "done", "steps", "speed", "left", "return")
        columns = {name: [facts[name] for facts in shown] for name in names}
        spare = ("speed", "done", "steps", "left")
        table = Table(title=self._title, title_justify="left")
        fitting = columns_that_fit(columns, self._console.width, spare=spare)
        for name in fitting or [name for name in names if name not in spare]:
            left = name in ("cell", "state")
            table.add_column(name, justify="left" if left else "right", no_wrap=bool(fitting))
        for row, facts in zip(rows, shown, strict=False):
            cells = [facts[str(column.header)] for column in table.columns]
            table.add_row(*cells, style=_STYLES.get(row.state, ""))
        hidden = len(rows) - room
        more = [Text(f"... and {hidden} more cells", style="dim")] if hidden > 0 else []
        return Group(table, *more, Text(self._summary()))
