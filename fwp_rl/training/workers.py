"""Parts of one computation in threads: taken from a queue, put together in a fixed order.

More parts than threads: a thread that has lost its core to another process holds up the part that
it is at, and the others take the rest. OpenMP, which divides every kernel evenly, waits for such a
thread at each of them.
"""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Spent", "Workers"]

CLOSE_SECONDS = 10.0
"""How long closing waits, at most, for a part that somebody is at."""


@dataclass(kw_only=True, slots=True)
class Spent:
    """Seconds that parts took, all together."""

    wall: float = 0.0
    cpu: float = 0.0
    """Of these, those in which a core computed them."""

    @property
    def share(self) -> float:
        """Of the time in which a core computed; 1 where nobody else wants one."""
        return min(1.0, self.cpu / self.wall) if self.wall else 1.0


class Workers:
    """Threads that compute beside the caller's. Each starts when it is first needed, computes with
    one thread of torch's, is a daemon, and ends with ``close``."""

    def __init__(self, name: str) -> None:
        """``name-1`` ... are what the threads are called."""
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def run(
        self,
        compute: Callable[[int], Any],
        count: int,
        *,
        threads: int,
        merge: Callable[[Any], object],
    ) -> Spent:
        """``compute(0)`` to ``compute(count - 1)`` in ``threads`` threads, the caller's among them,
        each of which takes the next number when it is free.

        merge  gets the results in the order of the numbers, one at a time, in any of the threads
               and as soon as it can have them: they are not kept

        What ``compute`` raises is raised here once nobody computes any more; of several errors,
        that of the lowest number. What the caller's own thread is interrupted by leaves at once: no
        other part is begun, and what those under way bring is dropped.
        """
        job = _Job(compute, merge, count)
        helpers = min(threads, count) - 1
        while len(self._threads) < helpers:
            name = f"{self._name}-{len(self._threads) + 1}"
            self._threads.append(threading.Thread(target=self._help, name=name, daemon=True))
            self._threads[-1].start()
        for _ in range(helpers):
            self._jobs.put(job)
        try:
            job.work()
            job.wait()
        except BaseException:
            job.cancel()
            raise
        return job.spent

    def close(self) -> None:
        """End the threads, after the parts that they are at."""
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._threads.clear()

    def _help(self) -> None:
        # The first question gives a thread the number that was last set in any thread; asked later,
        # it would undo what is set here.
        torch.get_num_threads()
        torch.set_num_threads(1)
        while (job := self._jobs.get()) is not None:
            with suppress(BaseException):  # who waits for the job raises it
                job.work()
            del job  # and all that it holds


class _Job:
    """What is left of a computation, and what has come of it."""

    def __init__(
        self, compute: Callable[[int], Any], merge: Callable[[Any], object], count: int
    ) -> None:
        self.spent = Spent()
        self._compute = compute
        self._merge = merge
        self._count = count
        self._taken = 0
        self._running = 0
        self._merged = 0
        self._results: dict[int, Any] = {}
        self._errors: dict[int, BaseException] = {}
        self._changed = threading.Condition()

    def work(self) -> None:
        """Compute one part after the other, until none is left or one has failed."""
        while (index := self._take()) is not None:
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                result = self._compute(index)
                self._enter(index, result, time.perf_counter() - wall, time.thread_time() - cpu)
                del result
            except BaseException as error:
                if threading.current_thread() is not threading.main_thread():
                    error.add_note(f"This happened in {threading.current_thread().name}.")
                self._fail(index, error)
                if not isinstance(error, Exception):
                    raise

    def wait(self) -> None:
        """Until nobody computes any more; raises what was raised."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
        if self._errors:
            raise self._errors[min(self._errors)]

    def cancel(self) -> None:
        """Begin no other part, and drop what those under way bring."""
        with self._changed:
            self._count = self._taken
            self._merge = lambda _: None

    def _take(self) -> int | None:
        with self._changed:
            if self._errors or self._taken >= self._count:
                return None
            self._taken += 1
            self._running += 1
            return self._taken - 1

    def _enter(self, index: int, result: Any, wall: float, cpu: float) -> None:
        with self._changed:
            self._results[index] = result
            while self._merged in self._results:
                self._merge(self._results.pop(self._merged))
                self._merged += 1
            self.spent.wall += wall
            self.spent.cpu += cpu
            self._running -= 1
            self._changed.notify_all()

    def _fail(self, index: int, error: BaseException) -> None:
        with self._changed:
            self._errors[index] = error
            self._running -= 1
            self._changed.notify_all()
