"""How many threads compute an update: measured, and measured again when the machine changes."""

import statistics
import time
from collections.abc import Callable, Sequence

__all__ = ["ThreadChoice", "candidates"]

ROUNDS = 3
"""Updates that a number of threads is measured by."""

MARGIN = 0.05
"""Fewer threads are as good as the fastest if they take no more than this share longer; those in
use stay if they take no more than twice that."""

DRIFT = 0.15
"""The share of their time in which cores compute for the threads is looked at: a change as large
as this says that somebody else has come or gone."""

SMOOTHING = 0.1
"""Weight of the last update in the mean that is compared."""

LEAST_UPDATES = 50
"""Between two looks: measuring costs little beside them."""

LOOK_SECONDS = 60.0
"""Between two looks without a reason, for a core that has become free is nothing that one thread
feels. Each that changes nothing doubles it, up to LONGEST_SECONDS."""

LONGEST_SECONDS = 900.0


def candidates(parts: int, cores: int) -> list[int]:
    """Numbers of threads worth trying: of those that leave each thread the same number of parts,
    the smallest. Of 4 parts on 8 cores 1, 2 and 4: a third thread would spare no round."""
    rounds = {-(-parts // threads): threads for threads in range(max(1, min(parts, cores)), 0, -1)}
    return sorted(rounds.values())


class ThreadChoice:
    """Tries all candidates by turns, keeps to the fastest, and looks again now and then, and where
    the machine has changed. The first update of each counts for nothing: it compiles."""

    def __init__(
        self,
        candidates: Sequence[int],
        tell: Callable[[str], object] = lambda _: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``tell`` is told what is chosen, where it is not what was told last, in one line."""
        self.threads = candidates[0]
        """To compute the next update with."""
        self._candidates = candidates
        self._tell = tell
        self._clock = clock
        self._chosen: int | None = None
        self._seconds: dict[int, list[float]] = {threads: [] for threads in candidates}
        self._shares: dict[int, list[float]] = {threads: [] for threads in candidates}
        self._plan = list(candidates) * (1 + ROUNDS)
        self._pause = LOOK_SECONDS
        self._looked = clock()
        self._updates = 0
        self._usual = self._share = 1.0

    def enter(self, seconds: float, share: float) -> None:
        """Take note of an update.

        share  of the time that its parts took, that in which a core computed
        """
        if len(self._candidates) == 1:
            return
        if not self._plan:
            self._watch(share)
            return
        tried = self._plan.pop(0)
        self._seconds[tried].append(seconds)
        self._shares[tried].append(share)
        if not self._plan:
            self._choose()
        self.threads = self._plan[0] if self._plan else self._chosen or self._candidates[0]

    def _choose(self) -> None:
        seconds = {n: statistics.median(x[-ROUNDS:]) for n, x in self._seconds.items()}
        fastest, before = min(seconds.values()), self._chosen
        if before is None or seconds[before] > (1 + 2 * MARGIN) * fastest:
            self._chosen = min(n for n in seconds if seconds[n] <= (1 + MARGIN) * fastest)
        chosen = self._chosen
        assert chosen is not None  # a number was just chosen, or one was before
        if chosen == before:
            self._pause = min(2 * self._pause, LONGEST_SECONDS)
        else:
            self._pause = LOOK_SECONDS
            others = ", ".join(f"{n}: {s:.3g} s" for n, s in seconds.items() if n != chosen)
            self._tell(
                f"Updates are computed in {_threads(chosen)}: {seconds[chosen]:.3g} s each "
                f"(in {others})"
            )
        self._usual = self._share = statistics.median(self._shares[chosen][-ROUNDS:])
        self._looked, self._updates = self._clock(), 0
        for kept in (self._seconds, self._shares):
            for entries in kept.values():
                entries.clear()

    def _watch(self, share: float) -> None:
        self._updates += 1
        self._share += SMOOTHING * (share - self._share)
        if self._updates < LEAST_UPDATES:
            return
        changed = abs(self._share - self._usual) > DRIFT
        if changed or self._clock() - self._looked >= self._pause:
            self._plan = list(self._candidates) * ROUNDS
            self.threads = self._plan[0]


def _threads(count: int) -> str:
    return f"{count} threads" if count > 1 else "1 thread"
