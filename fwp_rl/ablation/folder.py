"""The folder of an ablation: a run directory for each cell, logs, and a ledger of what happened.

    ablation.json      the cells: name, labels, run directory
    ledger.jsonl       one line for each start and end of a cell's process
    configs/CELL.yaml  what the process is given
    logs/CELL.log      what it printed, all attempts one after the other
    CELL/              the run directory

The run directories are the truth on what is done; the ledger is for people.
"""

import json
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import nan
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout

from fwp_rl.ablation.grid import Cell, Grid
from fwp_rl.config import ConfigError
from fwp_rl.runs.config import TrainConfig
from fwp_rl.runs.directory import RunDirectory, RunError
from fwp_rl.runs.files import parse_json, write_file, write_json
from fwp_rl.runs.flags import as_flags
from fwp_rl.runs.metrics import last_rows
from fwp_rl.runs.presets import bookkeeping, config_to_dict, first_change, load_preset
from fwp_rl.runs.results import Score, score
from fwp_rl.runs.resuming import clear_unsaved, has_work, is_complete

__all__ = ["AblationFolder", "CellProgress", "CellState"]

CellState = Literal["waiting", "partial", "finished", "busy"]
"""waiting: not begun; partial: to be resumed; finished: trained and evaluated; busy: some other
process has its run directory."""

_TAIL = 1 << 16
_LINES, _LINE = 5, 200
"""Of a log's end: lines, and letters of each."""


@dataclass(frozen=True, kw_only=True)
class CellProgress:
    """How far a cell is, by its metrics.jsonl."""

    step: int = 0
    seconds: float = 0.0
    """For which it has trained, over all its processes."""
    rate: float | None = None
    """Steps per second over the last minute or so."""
    episode_return: float | None = None
    """Mean of the latest games in training."""


@dataclass(frozen=True)
class AblationFolder:
    """The paths of an ablation, the states of its cells, its lock and ledger."""

    path: Path

    def run(self, cell: Cell) -> RunDirectory:
        return RunDirectory(self.path / cell.name)

    def log(self, cell: Cell) -> Path:
        return self.path / "logs" / f"{cell.name}.log"

    def log_tail(self, cell: Cell) -> list[str]:
        """The last lines that a cell's last process has printed."""
        try:
            text = _end_of(self.log(cell)).decode(errors="replace")
        except OSError:
            return []
        lines = text.rpartition("\n$ ")[2].splitlines()
        # the first one is its command, unless all that was read came after it
        lines = lines[1:] if "\n$ " in text else lines
        return [line.rstrip()[:_LINE] for line in lines if line.strip()][-_LINES:]

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    def config(self, cell: Cell) -> Path:
        return self.path / "configs" / f"{cell.name}.yaml"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against a second runner; RunError where there is one."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(blocking=False)
        except Timeout:
            raise RunError(
                f"{self.path}: another fwp-rl ablate is at work on it; wait for it, stop it, or "
                "name another --output"
            ) from None
        except (OSError, NotImplementedError) as error:  # some file systems know no locks
            reason = getattr(error, "strerror", None) or error
            raise RunError(f"{self.path}: cannot be written: {reason}") from error
        try:
            yield
        finally:
            lock.release()

    def check(self, grid: Grid) -> list[str]:
        """What has changed since the folder was begun, in sentences.

        RunError where a cell that has begun is another experiment now: its results would be mixed
        with those of the new one.
        """
        for cell in grid.cells:
            path = self.run(cell).config
            if not path.is_file():
                continue
            try:
                before = load_preset(path)
            except ConfigError as error:
                raise RunError(
                    f"{self.path / cell.name}: its config cannot be read: {error}"
                ) from None
            changed = first_change(before, cell.config)
            if changed is not None:
                name, was, now = changed
                raise RunError(
                    f"{grid.source}: cell {cell.name} has {name} = {now!r}, but was begun in "
                    f"{self.path} with {was!r}. Name another --output, or delete "
                    f"{self.path / cell.name}"
                )
        before_cells = self._recorded()
        if not before_cells:
            return []
        names = [cell.name for cell in grid.cells]
        notes = []
        new = [name for name in names if name not in before_cells]
        gone = [name for name in before_cells if name not in names]
        if new:
            notes.append(f"The grid has changed: {len(new)} new cells, such as {new[0]}")
        if gone:
            notes.append(
                f"The grid has changed: {len(gone)} cells of {self.path} are no longer in it, "
                f"such as {gone[0]}; they stay as they are"
            )
        return notes

    def write(self, grid: Grid) -> None:
        """Record the grid, and what each cell's process is given."""
        for cell in grid.cells:
            config = replace(cell.config, run_dir=str(self.run(cell).path), plain=True)
            text = yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True)
            write_if_changed(self.config(cell), text)
        cells = [
            {"name": cell.name, "labels": dict(cell.labels), "run": cell.name}
            for cell in grid.cells
        ]
        value = {
            "schema": 1,
            "name": grid.name,
            "source": str(grid.source),
            "axes": list(dict.fromkeys(axis for cell in grid.cells for axis in cell.labels)),
            "cells": cells,
        }
        write_json(self.path / "ablation.json", value)

    def record(self, cell: Cell, event: str, **facts: Any) -> None:
        """Add a line to the ledger."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "cell": cell.name,
            "event": event,
            "host": socket.gethostname(),
            **facts,
        }
        with self.ledger.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def state(self, cell: Cell) -> CellState:
        """What is to be done with a cell."""
        run = self.run(cell)
        if not run.path.is_dir():
            return "waiting"
        if run.is_locked():
            return "busy"
        if not RunDirectory.is_run(run.path):
            return "waiting"
        return "finished" if is_complete(run, cell.config) else "partial"

    def resume_flags(self, cell: Cell) -> list[str]:
        """What the grid says by now of how and where a begun cell runs."""
        before = bookkeeping(load_preset(self.run(cell).config))
        now = bookkeeping(cell.config)
        ours = ("run_dir", "plain")  # the runner's own
        return as_flags({k: v for k, v in now.items() if before.get(k) != v and k not in ours})

    def prepare(self, cell: Cell) -> bool:
        """Make a cell ready for its process; whether that resumes it. A run that was killed before
        its first checkpoint is cleared away: there is nothing in it."""
        run = self.run(cell)
        clear_unsaved(run)
        return has_work(run)

    def progress(self, cell: Cell) -> CellProgress:
        """How far a cell is."""
        rows = [r for r in last_rows(self.run(cell).metrics) if math.isfinite(r.get("time", nan))]
        if not rows:
            return CellProgress()
        last = rows[-1]
        recent = [row for row in rows if 0 <= last["time"] - row["time"] <= 60]
        names = ("charts/episode_return", "validation/score")  # an agent's, a sequence task's
        returns = [row[name] for row in rows for name in names if name in row]
        span = last["time"] - recent[0]["time"]
        steps = last["step"] - recent[0]["step"]
        if span <= 0 and last["time"] > 0:
            span, steps = last["time"], last["step"]
        return CellProgress(
            step=int(last["step"]),
            seconds=float(last["time"]),
            rate=steps / span if span > 0 else None,
            episode_return=next((x for x in reversed(returns) if math.isfinite(x)), None),
        )

    def score(self, cell: Cell) -> Score | None:
        """The run's score, of as many games as the grid asks for; None where there is none."""
        config = cell.config
        games = config.evaluation_games if isinstance(config, TrainConfig) else 0
        return score(self.run(cell), games=games)

    def _recorded(self) -> list[str]:
        path = self.path / "ablation.json"
        try:
            return [cell["name"] for cell in parse_json(path.read_bytes(), path)["cells"]]
        except (OSError, RuntimeError, KeyError, TypeError):
            return []


def write_if_changed(path: Path, text: str) -> None:
    """A thousand cells would otherwise cost a thousand fsyncs at every call."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_file(path, text)


def _end_of(path: Path) -> bytes:
    """The last bytes of a file, which may be long."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        return file.read()
