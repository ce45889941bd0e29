"""Python threads that share the work of a kernel which lets go of the GIL.

Not OpenMP's: its threads wait for one another at the end of every loop, so that one which has lost
its core to another process holds up all of them; and each library brings its own, which must not be
entered twice at a time or after a fork. Here the pieces of a call lie on one pile: a thread that
comes late takes fewer, or none.
"""

import os
import threading
from collections.abc import Callable
from itertools import pairwise
from queue import SimpleQueue
from typing import Final

__all__ = ["share"]

PIECES: Final = 4
"""Pieces per thread: what one holds up, at most, is a piece."""

_tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
_threads: list[threading.Thread] = []
_lock = threading.Lock()


def share(run: Callable[[int, int], object], count: int, threads: int) -> None:
    """Call ``run(first, stop)`` for ranges that make up ``range(count)``, in several threads: this
    one and others, which are kept. Returns when all are done, and raises what one of them raised.

    run  touches nothing that another range touches
    """
    pieces = min(count, PIECES * threads)
    borders = [count * n // max(pieces, 1) for n in range(pieces + 1)]
    left = pairwise(borders)  # its next() is one step of the interpreter
    done: SimpleQueue[BaseException | None] = SimpleQueue()

    def work() -> None:
        for first, stop in left:
            try:
                run(first, stop)
            except BaseException as error:
                done.put(error)
            else:
                done.put(None)

    helpers = max(0, min(threads, pieces) - 1)
    _keep(helpers)
    for _ in range(helpers):
        _tasks.put(work)
    work()
    # Pieces are waited for, not threads: one that has not woken up yet has nothing to do any more.
    errors = [error for _ in range(pieces) if (error := done.get()) is not None]
    if errors:
        raise errors[0]


def _keep(count: int) -> None:
    """Have so many threads at least."""
    if len(_threads) >= count:
        return
    with _lock:
        while len(_threads) < count:
            thread = threading.Thread(
                target=_serve, args=(_tasks,), name=f"kernel-{len(_threads) + 1}", daemon=True
            )
            thread.start()
            _threads.append(thread)


def _serve(tasks: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        tasks.get()()


def _after_fork() -> None:
    """A child has none of its parent's threads, and no part in their tasks."""
    global _tasks, _lock
    _tasks, _lock = SimpleQueue(), threading.Lock()
    _threads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
