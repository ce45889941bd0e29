"""Processes that a benchmark starts: a fresh one for each measurement, and busy ones beside it.

None outlives the benchmark. Who leaves, by Ctrl-C or an error, kills them on the way out; and each
of them looks whether its parent still lives, for the case that somebody kills that.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["MeasurementError", "busy", "fresh", "peak_memory"]

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds that a process has to end in once it has answered."""

SPIN = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
parent = int(sys.argv[1])
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


class MeasurementError(RuntimeError):
    """A measurement that did not come to its end; says in a line how."""


def fresh(function: Callable[..., T], *arguments: Any) -> T:
    """What a function of a module returns, called in a process that has run nothing before: threads
    and allocator start alike for all that is compared.

    Raises MeasurementError where it raises, or the process dies.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_answer, args=(sender, os.getpid(), function, arguments), daemon=True
    )
    process.start()
    sender.close()
    try:
        worked, answer, trace = receiver.recv()
        process.join(PATIENCE)
    except EOFError:
        process.join(PATIENCE)
        raise MeasurementError(_end(process.exitcode)) from None
    finally:
        process.kill()
        process.join()
        receiver.close()
    if not worked:
        error = MeasurementError(answer)
        error.add_note(trace)
        raise error
    return answer  # type: ignore[no-any-return]


def _answer(
    sender: Connection, parent: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """What the fresh process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which kills this
    with suppress(OSError):  # where memory runs out, this process goes, and not the user's others
        Path("/proc/self/oom_score_adj").write_text("1000")
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    try:
        sender.send((True, function(*arguments), ""))
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        sender.send((False, f"{type(error).__name__}: {first}", traceback.format_exc()))


def _follow(parent: int) -> None:
    """End this process with its parent."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _end(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        memory = ", as the system does where memory runs out" if name == "SIGKILL" else ""
        return f"the process was ended by {name}{memory}"
    return f"the process ended with exit code {code} before it had an answer"


@contextmanager
def busy(count: int) -> Iterator[list[int]]:
    """So many processes that compute all the time; yields their ids. They are gone afterwards."""
    command = [sys.executable, "-I", "-S", "-c", SPIN, str(os.getpid())]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def peak_memory() -> int:
    """Bytes of memory that this process has had at most, libraries included."""
    with suppress(OSError):
        # not what getrusage says, which begins with the memory of the process that started this one
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource  # absent on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
