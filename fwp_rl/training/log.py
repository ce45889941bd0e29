"""What a training tells while it runs: rows of metrics.jsonl and its view, and the display."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from fwp_rl.evaluation import in_words
from fwp_rl.rl.collector import Stopwatch
from fwp_rl.runs.metrics import MetricsLogger
from fwp_rl.terminal import Progress

__all__ = ["TrainingLog"]


class TrainingLog:
    """Gathers updates into rows, and writes and shows them."""

    def __init__(
        self, logger: MetricsLogger, progress: Progress, stopwatch: Stopwatch, *, every: int
    ) -> None:
        """
        stopwatch  says where the time of a row went
        every      updates to a row
        """
        self._logger = logger
        self._progress = progress
        self._stopwatch = stopwatch
        self._every = every
        self._updates: list[tuple[int, Mapping[str, float]]] = []
        self._written = time.monotonic()

    def start(self) -> None:
        """The first row's speed starts here: what came before is no training."""
        self._written = time.monotonic()
        self._stopwatch.take()

    def add(self, steps: int, metrics: Mapping[str, float]) -> bool:
        """Enter one update; whether a row is due."""
        self._updates.append((steps, metrics))
        return len(self._updates) >= self._every

    @property
    def due_next(self) -> bool:
        """Whether a row is due with the next update."""
        return len(self._updates) + 1 >= self._every

    def write(self, step: int, scores: Mapping[str, float]) -> None:
        """Write a row of the updates since the last one, if there are any: their means."""
        if not self._updates:
            return
        updates, self._updates = self._updates, []
        now = time.monotonic()
        # a clock may be coarse
        elapsed, self._written = max(now - self._written, 1e-9), now
        row = _merged([metrics for _, metrics in updates])
        row |= scores
        row["charts/steps_per_second"] = sum(steps for steps, _ in updates) / elapsed
        for activity, seconds in self._stopwatch.take().items():
            row[f"time/{activity}"] = seconds / elapsed
        self._logger.log(step, row)
        self._progress.update(step, row)

    def evaluation(self, step: int, result: Mapping[str, Any], seconds: float) -> None:
        """Write what an evaluation came to; its ``seconds`` count neither as time of training nor
        against the speed."""
        summary = result["summary"]
        row = {"evaluation/mean_return": summary["mean"]}
        if summary["interval"] is not None:
            low, high = summary["interval"]
            row |= {"evaluation/interval_low": low, "evaluation/interval_high": high}
        if summary["success"] is not None:
            row["evaluation/success_rate"] = summary["success"]["rate"]
        self.interlude(step, row, seconds)
        self.message(
            f"Evaluation at step {step:,}: {in_words(summary)}, {len(result['returns'])} games, "
            f"{seconds:.0f} s"
        )

    def interlude(self, step: int, row: Mapping[str, float], seconds: float) -> None:
        """Write and show a row of what came between two updates and took ``seconds``, which are no
        time of training."""
        self._written += seconds
        self._logger.pause(seconds)
        self._progress.pause(seconds)
        self._logger.log(step, row)
        self._progress.update(step, row)

    def message(self, text: str) -> None:
        """Tell the user; safe from any thread."""
        self._progress.message(text)


def _merged(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of the updates' metrics; of the largest of something, the largest."""
    merged = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if name in row]
        largest = name.endswith(("_max", "_deviation"))
        merged[name] = max(values) if largest else sum(values) / len(values)
    return merged
