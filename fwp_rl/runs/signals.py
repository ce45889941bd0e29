"""Stopping on request. SIGTERM, SIGINT, SIGHUP (a closed terminal) and the warnings of clusters,
SIGUSR1 and SIGUSR2, ask; the training loop obeys."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StopRequest", "StopTraining"]

# Windows has the first two alone
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


class StopTraining(BaseException):
    """Raised between two steps once a stop was asked for: no failure, and no ``except Exception``
    is meant to hold it up."""


class StopRequest:
    """Turns stop signals into a flag while the context lasts.

    The loop polls ``requested`` between two steps, saves, and leaves with ``exit_code``. A second
    Ctrl-C raises KeyboardInterrupt at once. Outside the main thread, where Python delivers no
    signals, nothing is changed. A signal that the process was told to ignore, as nohup does with
    SIGHUP, stays ignored. In forked children the handlers are those of before.

        with StopRequest() as stop:
            while not stop.requested: ...
    """

    def __init__(self, doing: str = "saving and stopping") -> None:
        """``doing`` is what the answer to a signal says."""
        self.signal: signal.Signals | None = None
        """The first signal that came."""
        self.wakeups: int | None = None
        """Where each signal's number can be read as a byte as soon as it comes, also while native
        code keeps the main thread from its handler; None outside the context, and where Python
        delivers no signals."""
        self._doing = doing
        self._interrupts = 0
        self._pending: BaseException | None = None
        self._thrown = False
        self._previous: dict[signal.Signals, Any] = {}
        self._previous_wakeups = -1
        self._write_end = -1
        self._thread = threading.main_thread()

    @property
    def requested(self) -> bool:
        return self.signal is not None

    @property
    def insisted(self) -> bool:
        """Ctrl-C came twice."""
        return self._interrupts > 1

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM;
        0 where none came."""
        return 0 if self.signal is None else 128 + self.signal

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self
        for name in _NAMES:
            if hasattr(signal, name):
                number = signal.Signals[name]
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        if hasattr(signal, "pthread_kill"):  # elsewhere only sockets can take the bytes
            self.wakeups, self._write_end = os.pipe()
            os.set_blocking(self._write_end, False)
            self._previous_wakeups = signal.set_wakeup_fd(
                self._write_end, warn_on_full_buffer=False
            )
        _active.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self in _active:
            _active.remove(self)
        for number, handler in self._previous.items():
            # None stands for a handler that was not installed from Python
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()
        if self.wakeups is not None:
            signal.set_wakeup_fd(self._previous_wakeups)
            for descriptor in (self.wakeups, self._write_end):
                os.close(descriptor)
            self.wakeups = None

    def wake(self) -> None:
        """Let who reads ``wakeups`` look up."""
        if self.wakeups is not None:
            os.write(self._write_end, b"\0")

    def note(self, number: int) -> None:
        """Take a signal for asked; the first is answered on stderr."""
        if self.signal is None and number in self._previous:
            self.signal = signal.Signals(number)
            how = "; Ctrl-C again quits at once" if number == signal.SIGINT else ""
            # os.write, as print may have been interrupted half-way through its own lock
            with suppress(OSError):  # SIGHUP comes because the terminal is gone
                os.write(2, f"\n{self.signal.name}: {self._doing}{how}\n".encode())

    def heard(self, number: int) -> None:
        """Take a byte of ``wakeups`` for asked, unless it is of our own ``throw``."""
        if number == signal.SIGTERM and self._thrown:
            self._thrown = False
        else:
            self.note(number)

    def throw(self, error: BaseException) -> bool:
        """Raise an error in the main thread, whatever Python code or system call it is in; asked by
        another thread. False where that cannot be done."""
        if self.wakeups is None or signal.SIGTERM not in self._previous:
            return False
        self._pending, self._thrown = error, True
        assert self._thread.ident is not None  # it runs
        signal.pthread_kill(self._thread.ident, signal.SIGTERM)
        return True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._pending is not None and number == signal.SIGTERM:
            error, self._pending = self._pending, None
            raise error
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        self.note(number)

    def leave_to_child(self) -> None:
        """In a forked process, such as an environment's worker, which is nobody's training: what
        reaches the whole group must not be heard twice, and who forked it can end it."""
        if self.wakeups is not None:
            signal.set_wakeup_fd(-1)
        for number, handler in self._previous.items():
            if number == signal.SIGINT:
                signal.signal(number, signal.SIG_IGN)
            else:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


_active: list[StopRequest] = []
"""Those whose contexts last."""


def _in_child() -> None:
    for request in reversed(_active):
        request.leave_to_child()
    _active.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
