"""A run's metrics: ``metrics.jsonl``, the record, and a view of it, TensorBoard's or W&B's."""

import json
import math
import os
import re
import time
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from fwp_rl.runs.append import AppendedFile
from fwp_rl.runs.config import LoggerName
from fwp_rl.runs.files import write_file

if TYPE_CHECKING:
    from fwp_rl.runs.views import View

__all__ = ["MetricsLogger", "last_rows", "read_metrics"]

METRICS = "metrics.jsonl"

WAITING_ROWS = 10_000
"""Rows that are kept in memory while they cannot be written."""

_LONGEST = 1 << 20
"""Bytes of a line; a row is some thousand at most."""
_TAIL = 1 << 16
_LARGEST = 1 << 63
_HEAD = re.compile(rb'\{"step": (\d{1,18}), "time": (\d+\.\d+)[,}]')

Row = dict[str, float]


class MetricsLogger:
    """Writes one line of JSON, and one point per curve of the view, for each update.

    A line is ``{"step": ..., "time": ..., name: value, ...}``. ``time`` is the seconds for which
    the run has trained, over all its sessions, on the monotonic clock. A value that is not finite
    is null under its name. The files are handed to the operating system at every line.

    Training never ends for its log. Lines that cannot be written wait in memory for the next one
    that can; a view that fails in any way is given up.
    """

    def __init__(
        self,
        directory: Path,
        *,
        start_step: int = 0,
        logger: LoggerName = "tensorboard",
        config: Mapping[str, Any] | None = None,
        experiment: Mapping[str, Any] | None = None,
        warn: Callable[[str], object] = warnings.warn,
    ) -> None:
        """Drops every point after ``start_step``: a run that resumes there makes them anew.

        config      what is trained, as the view shows it
        experiment  what of it tells the run from others, for the view's table of hyper-parameters
        warn        is told when lines can no longer be written, when they can again, and when the
                    view is given up
        """
        self._warn = warn
        self._path = directory / METRICS
        self._started = time.monotonic() - _drop_after(start_step, self._path)
        self._file = AppendedFile(self._path)
        self._waiting: deque[bytes] = deque(maxlen=WAITING_ROWS)
        self._lost = 0
        self._failing = False
        self._view: View | None = None
        self._name = "TensorBoard's files" if logger == "tensorboard" else "Weights & Biases"
        shown = {"config": config, "experiment": experiment}
        self._attempt(lambda: self._open(logger, directory, start_step, shown))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one update, or of an evaluation."""
        row: dict[str, Any] = {"step": step, "time": round(time.monotonic() - self._started, 3)}
        row |= {name: float(x) if math.isfinite(x) else None for name, x in metrics.items()}
        self._lost += len(self._waiting) == WAITING_ROWS
        self._waiting.append(f"{json.dumps(row, allow_nan=False)}\n".encode())
        self._write_rows()
        if (view := self._view) is not None:
            self._attempt(lambda: view.scalars(step, metrics))

    def pause(self, seconds: float) -> None:
        """Leave the last ``seconds`` out of ``time``: they were no training."""
        self._started += seconds

    def close(self) -> None:
        self._write_rows()
        if missing := self._lost + len(self._waiting):
            self._warn(f"{self._path} lacks {missing:,} rows, which could not be written")
        self._file.close()
        if (view := self._view) is not None:
            self._attempt(view.close)

    def _write_rows(self) -> None:
        """Write what waits, as far as that is possible."""
        try:
            while self._waiting:
                vanished = self._file.append(self._waiting[0])
                self._waiting.popleft()
                if vanished:
                    self._warn(f"{self._path} had vanished; it is made anew, without earlier rows")
        except OSError as error:
            if not self._failing:
                self._warn(
                    f"{self._path} cannot be written ({error.strerror}); training goes on, and the "
                    f"latest {WAITING_ROWS:,} rows wait in memory to be written"
                )
            self._failing = True
            return
        if self._failing:
            lost = f"; {self._lost:,} rows were too many to wait" if self._lost else ""
            self._warn(f"{self._path} is written again{lost}")
            self._failing, self._lost = False, 0

    def _open(
        self, logger: LoggerName, directory: Path, step: int, shown: Mapping[str, Any]
    ) -> None:
        from fwp_rl.runs.views import open_view  # to read metrics takes no TensorBoard

        self._view = open_view(logger, directory, start_step=step, **shown)

    def __enter__(self) -> "MetricsLogger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _attempt(self, act: Callable[[], object]) -> None:
        """A view that cannot be written is given up, the training is not."""
        try:
            act()
        # a full disk, a server out of reach: each has errors of its own; some packages even exit
        except (Exception, SystemExit) as error:
            self._view = None
            reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
            self._warn(
                f"{self._name} can no longer be written ({reason or type(error).__name__}); "
                f"training goes on, and {self._path} has every metric"
            )


def read_metrics(
    path: Path, *, names: Collection[str] | None = None, limit: int | None = None
) -> list[Row]:
    """The rows of a metrics.jsonl, in its order; null is read as NaN.

    names  of the metrics to be read, beside ``step`` and ``time``; rows that hold none of them are
           left out. None: all
    limit  rows that are returned, at most. Of more, every second, fourth, ... is taken: about half
           of the limit at least. None: all. A long file then takes little memory

    The last row of all is always there, whatever it holds. Lines that are no rows, such as the last
    one of a killed run, are left out, and so are values that are no numbers. Empty where there is
    no file.
    """
    if not path.is_file():
        return []
    keys = [json.dumps(name).encode() for name in names or ()]
    kept: list[tuple[int, Row]] = []
    stride = 1
    with path.open("rb") as file:
        lines = _lines(file)
        if keys:
            lines = ((start, line) for start, line in lines if any(key in line for key in keys))
        for number, (start, line) in enumerate(lines):
            if number % stride or (row := _row(line, names)) is None:
                continue
            kept.append((start, row))
            if limit is not None and len(kept) > limit:
                kept, stride = kept[::2], 2 * stride
        last = _rows_at_the_end(file, names)[-1:]
    if last and (not kept or kept[-1][0] < last[0][0]):
        room = None if limit is None else limit - 1
        kept = kept[:room] + last
    return [row for _, row in kept]


def last_rows(path: Path) -> list[Row]:
    """The rows in the last 64 KiB of a metrics.jsonl, which may be long, as ``read_metrics`` reads
    them. Empty where there is no file that can be read."""
    try:
        with path.open("rb") as file:
            return [row for _, row in _rows_at_the_end(file)]
    except OSError:
        return []


def _rows_at_the_end(
    file: IO[bytes], names: Collection[str] | None = None
) -> list[tuple[int, Row]]:
    """Rows in the last 64 KiB, and where each starts."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
    rows = ((start, _row(line, names)) for start, line in _lines(file))
    return [(start, row) for start, row in rows if row is not None]


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Where each line starts, and the line. What is too long for a row comes in pieces."""
    start = file.tell()
    while line := file.readline(_LONGEST):
        yield start, line
        start += len(line)


def _row(line: bytes, names: Collection[str] | None = None) -> Row | None:
    """The row in a line, step, time and ``names`` of it, or None where there is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # a line can be nested as deep as it is long
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    if not 0 <= row["step"] < _LARGEST:
        return None
    wanted = row if names is None else {"step", "time", *names}
    return {
        name: math.nan if value is None else value
        for name, value in row.items()
        if name in wanted and (value is None or _is_number(value))
    }


def _is_number(value: Any) -> bool:
    """One that becomes a float without complaint."""
    return type(value) is float or (type(value) is int and abs(value) < _LARGEST)


def _drop_after(step: int, path: Path) -> float:
    """Cut the rows after ``step`` off; returns the ``time`` of the last row left, or 0.

    Reads line by line, and cuts in place: a crash leaves the file as it was or as it should be.
    """
    path.touch()
    seconds, end, whole, ordered, later = 0.0, 0, True, True, False
    with path.open("rb") as file:
        for start, line in _lines(file):
            if (row := _step_and_time(line)) is None:
                continue
            if row[0] > step:
                later = True
                continue
            ordered = ordered and not later
            end, whole = start + len(line), line.endswith(b"\n")
            seconds = row[1] if 0 <= row[1] < math.inf else seconds
    if not ordered:  # such as two files put together by hand
        with path.open("rb") as file:
            rows = ((line, _step_and_time(line)) for _, line in _lines(file))
            kept = [line.rstrip(b"\n") for line, row in rows if row and row[0] <= step]
        write_file(path, b"".join(line + b"\n" for line in kept))
        return seconds
    os.truncate(path, end)
    if not whole:
        with path.open("ab") as file:
            file.write(b"\n")
    return seconds


def _step_and_time(line: bytes) -> tuple[int, float] | None:
    """Of the row in a line; None where there is none. To parse a whole long file takes seconds, so
    that of lines as they are written only the beginning is looked at."""
    if (head := _HEAD.match(line)) and line.endswith(b"}\n"):
        return int(head[1]), float(head[2])
    row = _row(line, ())
    return None if row is None else (int(row["step"]), row.get("time", math.nan))
