"""Signs of life of whoever plays. An environment that hangs cannot say so: another thread reads
here how long it has been silent."""

import threading
from collections.abc import Callable
from typing import Literal

__all__ = ["Cancelled", "Pulse"]

Activity = Literal["", "acting", "environment"]


class Cancelled(BaseException):
    """Raised between two steps of play that was asked to end: no failure, and no user's
    ``except Exception`` is meant to hold it up."""


class Pulse:
    """Beats at every step of one player; read from other threads."""

    def __init__(self, name: str, check: Callable[[], object] = lambda: None) -> None:
        """
        name   what a message calls the player
        check  called before each step; what it raises ends the play
        """
        self.name = name
        self.activity: Activity = ""
        """What the player is at; empty between steps, and while it waits for a buffer."""
        self.beats = 0
        self.thread: int | None = None
        """Of the last beat; as ``threading.get_ident`` has it."""
        self.unroll_seconds: float | None = None
        """Mean of all unrolls so far; None before the first is done."""
        self._check = check
        self._unrolls = 0

    def act(self) -> None:
        """The policy is about to act."""
        self._check()
        self._beat("acting")

    def step(self) -> None:
        """The environment is about to step."""
        self._beat("environment")

    def rest(self) -> None:
        """The step is over."""
        self._beat("")

    def unrolled(self, seconds: float) -> None:
        """An unroll took so long."""
        mean = self.unroll_seconds or 0.0
        self._unrolls += 1
        self.unroll_seconds = mean + (seconds - mean) / self._unrolls

    def _beat(self, activity: Activity) -> None:
        self.thread = threading.get_ident()
        self.activity = activity
        self.beats += 1
