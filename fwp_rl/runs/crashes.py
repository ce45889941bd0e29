"""A crash in native code leaves a trace in the run directory: nobody watches a terminal for
days."""

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["crash_trace", "trace_crashes"]

CRASH_LOG = "crash.log"


def crash_trace(directory: Path) -> Path | None:
    """The trace that a crash left in a run directory; None where there was none. A process that was
    killed leaves an empty file, which tells nothing."""
    path = directory / CRASH_LOG
    try:
        return path if path.stat().st_size else None
    except OSError:
        return None


@contextmanager
def trace_crashes(directory: Path) -> Iterator[None]:
    """Have a fatal signal (a segfault, an abort) write every thread's stack to ``crash.log``.

    The file holds something only after a crash. Nothing is changed where it cannot be written, and
    where somebody has such traces written elsewhere already.
    """
    path = directory / CRASH_LOG
    try:
        file = None if faulthandler.is_enabled() else path.open("ab")
    except OSError:
        file = None
    if file is None:
        yield
        return
    with file:
        faulthandler.enable(file)
        try:
            yield
        finally:
            faulthandler.disable()
            with suppress(OSError):
                if not path.stat().st_size:
                    path.unlink()
