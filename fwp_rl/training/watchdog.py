"""What only another thread can do for a training loop: notice that an environment hangs, and obey a
stop signal while one does.

The loop's own thread may sit in an environment's step for ever, in native code even, where Python
runs no signal handler. Its weights do not change meanwhile, so this thread may save them. Then it
raises the error in that thread, and where that does not bring it out, ends the process.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from fwp_rl.rl.pulse import Pulse
from fwp_rl.runs.directory import RunState
from fwp_rl.runs.signals import StopRequest, StopTraining

__all__ = ["HangError", "Watchdog"]

TICK = 0.5
"""Seconds between two looks."""

UNROLLS = 20
"""An environment may be silent for so many of its mean unrolls."""

GRACE = 10.0
"""Seconds that a stop signal leaves a step to end by itself. Slurm kills after 30."""

LEAVE_SECONDS = 5.0
"""For an error to bring the loop out of the environment's step."""

CLOSE_SECONDS = 75.0
"""For the environments to close, once a signal has come."""


class HangError(RuntimeError):
    """An environment has not answered for too long."""


class Watchdog:
    """Watches pulses and signals from a thread of its own, between ``start`` and ``end``."""

    def __init__(
        self,
        stop: StopRequest,
        *,
        hang_seconds: float,
        rescue: Callable[[RunState, str], bool],
    ) -> None:
        """
        hang_seconds  silence that makes a hang, and at least 20 mean unrolls of it; 0 never
        rescue        saves what the loop has learned while it is inside an environment: called
                      with the state that the run ends in and what to say, in this thread. False
                      where the loop has come out by itself
        """
        self.problem: HangError | None = None
        """Of a player beside the loop's own thread; the loop is to raise it."""
        self.closing = False
        """The loop is over: environments close."""
        self._stop = stop
        self._hang_seconds = hang_seconds
        self._rescue = rescue
        self._pulses: list[Pulse] = []
        self._seen: dict[Pulse, tuple[int, float]] = {}
        self._owner = threading.get_ident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._clock = 0.0
        self._asked: float | None = None
        self._interrupts = 0
        self._second: float | None = None
        self._closed: float | None = None
        self._brought_out = False

    def watch(self, pulse: Pulse) -> None:
        """Look at a player from now on."""
        self._pulses.append(pulse)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._stop.wake()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._ended.is_set():
            self._read_signals()
            now = time.monotonic()
            # A clock of its own: the seconds for which the machine slept, or the process was
            # stopped, are nobody's silence.
            self._clock += min(now - last, 2 * TICK)
            last = now
            self._look_at_stop()
            for pulse in list(self._pulses):
                self._look_at(pulse)

    def _read_signals(self) -> None:
        """Wait for a tick, or less where signals come."""
        wakeups = self._stop.wakeups
        if wakeups is None:
            self._ended.wait(TICK)
            return
        poll = select.poll()  # select knows no descriptors above 1,023
        poll.register(wakeups, select.POLLIN)
        if not poll.poll(1000 * TICK) or self._ended.is_set():
            return
        for number in os.read(wakeups, 64):
            self._stop.heard(number)
            self._interrupts += number == signal.SIGINT

    def _silence(self, pulse: Pulse) -> float:
        """Seconds since a player's last beat; 0 while it is at nothing that could hang."""
        beats, since = self._seen.get(pulse, (-1, 0.0))
        if beats != pulse.beats or not pulse.activity:
            self._seen[pulse] = pulse.beats, self._clock
            return 0.0
        if pulse.activity == "acting" and pulse.unroll_seconds is None:
            return 0.0  # it may be compiling
        return self._clock - since

    def _look_at(self, pulse: Pulse) -> None:
        silent = self._silence(pulse)
        own = pulse.thread == self._owner
        if self._asked is not None and own and silent >= GRACE and not self._brought_out:
            said = f"{pulse.name}: no answer for {silent:.0f} seconds; saving and stopping anyway"
            self._brought_out = self._bring_out(
                pulse, StopTraining(), "stopped", said, self._stop.exit_code
            )
            return
        limit = max(self._hang_seconds, UNROLLS * (pulse.unroll_seconds or 0.0))
        if not self._hang_seconds or silent <= limit or self.problem is not None:
            return
        where = "the environment" if pulse.activity == "environment" else "the policy"
        said = (
            f"{pulse.name}: {where} has not answered for {silent:.0f} seconds (hang_seconds "
            f"{self._hang_seconds:g}, mean unroll {pulse.unroll_seconds or 0.0:.2g} s)"
        )
        hang = HangError(said)
        if own:
            end = "ending" if self._stop.wakeups is not None else "this thread cannot be ended"
            if not self._bring_out(pulse, hang, "failed", f"{said}; saving, and {end}", 1):
                return
        self.problem = hang

    def _bring_out(
        self, pulse: Pulse, error: BaseException, state: RunState, said: str, code: int
    ) -> bool:
        """Save, and get the loop out of the step it is in, or the process out of the world. False
        where the loop has come out by itself."""
        beats = pulse.beats
        if not self._rescue(state, said) or pulse.beats != beats:
            return False
        if self._stop.throw(error):
            deadline = time.monotonic() + LEAVE_SECONDS
            while time.monotonic() < deadline:
                if pulse.beats != beats or self._ended.wait(0.05):
                    return True
            os._exit(code)
        return True

    def _look_at_stop(self) -> None:
        if self._stop.requested and self._asked is None:
            self._asked = self._clock
        if self._interrupts > 1 and self._second is None:
            self._second = self._clock
        if self._second is not None and self._clock - self._second >= LEAVE_SECONDS:
            os._exit(130)  # as it was told: at once
        if self.closing and (self._stop.requested or self.problem is not None):
            self._closed = self._clock if self._closed is None else self._closed
            if self._clock - self._closed >= CLOSE_SECONDS:
                if self.problem is not None:
                    with suppress(OSError):
                        os.write(2, f"{self.problem}\n".encode())
                os._exit(1 if self.problem is not None else self._stop.exit_code)
