"""Stopping on request: SIGTERM, SIGINT and Slurm's SIGUSR1 ask, the training loop obeys."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StopRequest"]

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")  # Windows has no SIGUSR1


class StopRequest:
    """Turns stop signals into a flag while the context lasts.

    The loop polls ``requested`` after each iteration, saves, and leaves with ``exit_code``. A
    second Ctrl-C raises KeyboardInterrupt at once. Outside the main thread, where Python delivers
    no signals, nothing is changed.

        with StopRequest() as stop:
            while not stop.requested: ...
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The first signal that came."""
        self._interrupts = 0
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM;
        0 where none came."""
        return 0 if self.signal is None else 128 + self.signal

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                if hasattr(signal, name):
                    number = signal.Signals[name]
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that was not installed from Python
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        if self.signal is None:
            self.signal = signal.Signals(number)
            how = "; Ctrl-C again quits at once" if number == signal.SIGINT else ""
            # os.write, as print may have been interrupted half-way through its own lock
            os.write(2, f"\n{self.signal.name}: saving and stopping{how}\n".encode())
