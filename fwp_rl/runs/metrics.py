"""A run's metrics: ``metrics.jsonl``, the record, and a view of it, TensorBoard's or W&B's."""

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fwp_rl.runs.config import LoggerName
from fwp_rl.runs.files import write_file

if TYPE_CHECKING:
    from fwp_rl.runs.views import View

__all__ = ["MetricsLogger", "read_metrics"]

METRICS = "metrics.jsonl"


class MetricsLogger:
    """Writes one line of JSON, and one point per curve of the view, for each update.

    A line is ``{"step": ..., "time": ..., name: value, ...}``. ``time`` is the seconds for which
    the run has trained, over all its sessions, on the monotonic clock. A value that is not finite
    is null under its name. The files are handed to the operating system at every line.
    """

    def __init__(
        self,
        directory: Path,
        *,
        start_step: int = 0,
        logger: LoggerName = "tensorboard",
        config: Mapping[str, Any] | None = None,
        warn: Callable[[str], object] = warnings.warn,
    ) -> None:
        """Drops every point after ``start_step``: a run that resumes there makes them anew.

        config  what is trained, as the view shows it
        warn    is told once if the view cannot be written; the run goes on without it
        """
        self._warn = warn
        self._path = directory / METRICS
        self._started = time.monotonic() - _drop_after(start_step, self._path)
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self._view: View | None = None
        self._name = "TensorBoard's files" if logger == "tensorboard" else "Weights & Biases"
        self._attempt(lambda: self._open(logger, directory, start_step, config))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one update."""
        row: dict[str, Any] = {"step": step, "time": round(time.monotonic() - self._started, 3)}
        row |= {name: float(x) if math.isfinite(x) else None for name, x in metrics.items()}
        try:
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        if (view := self._view) is not None:
            self._attempt(lambda: view.scalars(step, metrics))

    def pause(self, seconds: float) -> None:
        self._started += seconds

    def close(self) -> None:
        self._file.close()
        if (view := self._view) is not None:
            self._attempt(view.close)

    def _open(
        self, logger: LoggerName, directory: Path, step: int, config: Mapping[str, Any] | None
    ) -> None:
        from fwp_rl.runs.views import open_view  # to read metrics takes no TensorBoard

        self._view = open_view(logger, directory, start_step=step, config=config)

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
        except Exception as error:  # a full disk, a server out of reach: each has errors of its own
            self._view = None
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self._warn(
                f"{self._name} can no longer be written ({reason or type(error).__name__}); "
                f"training goes on, and {self._path} has every metric"
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
