"""A run's metrics on disk: ``metrics.jsonl``, the record, and TensorBoard files, a view of it."""

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from fwp_rl.training.files import write_file

__all__ = ["MetricsLogger", "read_metrics"]

METRICS = "metrics.jsonl"


class MetricsLogger:
    """Writes one line of JSON, and one point per TensorBoard curve, for each update.

    A line is ``{"step": ..., "time": ..., name: value, ...}``. ``time`` is the seconds for which
    the run has trained, over all its sessions, on the monotonic clock. A value that is not finite
    is null under its name. Both files are handed to the operating system at every line.
    """

    def __init__(
        self,
        directory: Path,
        *,
        start_step: int = 0,
        warn: Callable[[str], object] = warnings.warn,
    ) -> None:
        """Drops every point after ``start_step``: a run that resumes there makes them anew.

        warn  is told once if TensorBoard's files cannot be written; the run goes on without them
        """
        self._warn = warn
        self._path = directory / METRICS
        self._started = time.monotonic() - _drop_after(start_step, self._path)
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self._events: _EventFile | None = None
        try:
            self._events = _EventFile(directory, start_step)
        except OSError as error:
            self._give_up_tensorboard(error)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one update."""
        row: dict[str, Any] = {"step": step, "time": round(time.monotonic() - self._started, 3)}
        row |= {name: float(x) if math.isfinite(x) else None for name, x in metrics.items()}
        try:
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        if self._events is not None:
            try:
                self._events.write(step, metrics)
            except OSError as error:
                self._give_up_tensorboard(error)

    def close(self) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> "MetricsLogger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _give_up_tensorboard(self, error: OSError) -> None:
        self._events = None
        self._warn(
            f"TensorBoard's files can no longer be written ({error.strerror}); training goes on, "
            f"and {self._path} has every metric"
        )


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl, in its order; null is read as NaN.

    Lines that are no rows, such as the last one of a killed run, are left out. Empty where there
    is no file.
    """
    return [row for _, row in _read_rows(path)]


def _read_rows(path: Path) -> list[tuple[str, dict[str, float]]]:
    """Each row's line as it stands, and the row."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append((line, {k: math.nan if v is None else v for k, v in row.items()}))
    return rows


def _drop_after(step: int, path: Path) -> float:
    """Cut the rows after ``step`` off; returns the ``time`` of the last row left, or 0."""
    rows = [(line, row) for line, row in _read_rows(path) if row["step"] <= step]
    write_file(path, "".join(f"{line}\n" for line, _ in rows))
    return rows[-1][1].get("time", 0.0) if rows else 0.0


class _EventFile:
    """Scalars for TensorBoard, written at once and in this thread.

    SummaryWriter's own thread would hold points back, print a traceback on a full disk, and name
    the file by the clock: TensorBoard reads files in the order of their names, so that a clock set
    back would mix up a resumed run.
    """

    def __init__(self, directory: Path, start_step: int) -> None:
        """Tells TensorBoard to forget every point after ``start_step`` in the earlier files."""
        number = len(list(directory.glob("events.out.tfevents.*")))
        path = directory / f"events.out.tfevents.{number:010d}.fwp_rl"
        self._file = path.open("xb")
        self._records = RecordWriter(self._file)
        self._add(Event(file_version="brain.Event:2"))
        restart = SessionLog(status=SessionLog.START)
        self._add(Event(step=start_step + 1, session_log=restart))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._add(Event(step=step, summary=Summary(value=values)))

    def close(self) -> None:
        self._file.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._file.flush()
