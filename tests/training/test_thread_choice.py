"""How many threads an update is given, on machines that change."""

from collections.abc import Callable

import pytest

from fwp_rl.training.thread_choice import LEAST_UPDATES, ThreadChoice, candidates


class Machine:
    """Its clock goes on by what updates take."""

    def __init__(self, seconds: dict[int, float], share: float = 1.0) -> None:
        self.seconds = seconds
        self.share = share
        self.now = 0.0
        self.told: list[str] = []
        self.choice = ThreadChoice(list(seconds), self.told.append, clock=lambda: self.now)

    def update(self) -> int:
        """One, in as many threads as were chosen."""
        threads = self.choice.threads
        self.now += self.seconds[threads]
        self.choice.enter(self.seconds[threads], self.share)
        return threads

    def updates(self, count: int) -> list[int]:
        return [self.update() for _ in range(count)]


@pytest.mark.parametrize(
    ("parts", "cores", "expected"),
    [
        (4, 1, [1]),
        (4, 2, [1, 2]),
        (4, 3, [1, 2]),
        (4, 8, [1, 2, 4]),
        (8, 64, [1, 2, 3, 4, 8]),
        (1, 8, [1]),
        (3, 0, [1]),
    ],
)
def test_a_thread_more_has_to_spare_a_round(parts: int, cores: int, expected: list[int]) -> None:
    assert candidates(parts, cores) == expected


def test_the_fastest_is_found_and_told_once() -> None:
    machine = Machine({1: 0.8, 2: 0.5, 4: 0.6})
    machine.updates(12)
    assert machine.updates(LEAST_UPDATES) == [2] * LEAST_UPDATES
    assert machine.told == ["Updates are computed in 2 threads: 0.5 s each (in 1: 0.8 s, 4: 0.6 s)"]


def test_fewer_are_taken_where_more_bring_little() -> None:
    machine = Machine({1: 0.52, 2: 0.5})
    machine.updates(20)
    assert machine.choice.threads == 1


def test_the_first_update_of_each_counts_for_nothing() -> None:
    machine = Machine({1: 30.0, 2: 0.5})  # it compiles
    machine.update()
    machine.seconds = {1: 0.1, 2: 0.5}
    machine.updates(10)
    assert machine.choice.threads == 1


def test_one_candidate_is_not_measured_nor_told() -> None:
    machine = Machine({3: 1.0}, share=0.2)
    assert machine.updates(500) == [3] * 500
    assert machine.told == []


def test_a_core_that_somebody_takes_is_noticed() -> None:
    machine = Machine({1: 0.008, 2: 0.005})
    machine.updates(8)
    assert machine.choice.threads == 2
    machine.seconds, machine.share = {1: 0.008, 2: 0.02}, 0.6
    machine.updates(LEAST_UPDATES + 10)
    assert machine.choice.threads == 1
    assert len(machine.told) == 2
    assert machine.now < 60, "by the share of time, not by the clock"


def test_a_core_that_becomes_free_is_noticed() -> None:
    """One thread does not feel it."""
    machine = Machine({1: 0.8, 2: 2.0})
    machine.updates(8)
    assert machine.choice.threads == 1
    machine.seconds = {1: 0.8, 2: 0.5}
    machine.updates(100)
    assert machine.choice.threads == 2


def test_a_little_faster_changes_nothing_that_is_in_use() -> None:
    machine = Machine({1: 0.5, 2: 0.6})
    machine.updates(8)
    machine.seconds = {1: 0.54, 2: 0.5}
    machine.updates(1000)
    assert machine.choice.threads == 1
    assert len(machine.told) == 1


@pytest.mark.parametrize(
    "share", [lambda n: 1.0, lambda n: 1.0 if n // 30 % 2 else 0.4], ids=["steady", "restless"]
)
def test_looking_costs_little(share: Callable[[int], float]) -> None:
    machine, count, others = Machine({1: 0.1, 2: 0.05}), 20_000, 0
    for n in range(count):
        machine.share = share(n)
        others += machine.update() != 2
    assert others < 0.06 * count
