"""What the cases of ``fwp_rl.bench.gpu`` share: what a case is, and how time is taken."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

__all__ = ["Case", "milliseconds"]


class Case(NamedTuple):
    """One thing to show, in a child process; ``name`` says it all."""

    name: str
    run: Callable[[], dict[str, Any]]


def milliseconds(work: Callable[[], object], device: str, rounds: int = 9) -> float:
    """Median over rounds; by events on a GPU, which leaves out what the host does meanwhile."""
    work()
    work()
    times = []
    for _ in range(rounds):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        else:
            start = time.perf_counter()
            work()
            times.append(1000 * (time.perf_counter() - start))
    return float(statistics.median(times))
