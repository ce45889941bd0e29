"""Parts of a computation in threads, and what ends one half-way."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from fwp_rl.training.workers import Workers


@pytest.fixture
def workers() -> Iterator[Workers]:
    with contextlib.closing(Workers("test")) as made:
        yield made


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("test-")]


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
def test_results_come_in_order_whoever_is_first(workers: Workers, threads: int) -> None:
    last = threading.Event()

    def compute(index: int) -> int:
        if threads > 1 and index == 0:
            last.wait(60)  # the others are done by then
        if index == 6:
            last.set()
        return index

    found: list[int] = []
    for _ in range(3):
        found.clear()
        last.clear()
        workers.run(compute, 7, threads=threads, merge=found.append)
        assert found == list(range(7))
    assert len(helpers()) == min(threads, 7) - 1


def test_each_thread_computes_with_one_of_torchs_and_the_callers_stays(workers: Workers) -> None:
    before = torch.get_num_threads()
    together = threading.Barrier(3)
    counts: list[int] = []

    def compute(_: int) -> int:
        together.wait(60)
        if threading.current_thread() is threading.main_thread():
            torch.set_num_threads(3)  # also as the number that new threads start with
            together.wait(60)
            return 1
        together.wait(60)
        return torch.get_num_threads()

    try:
        for _ in range(2):
            workers.run(compute, 3, threads=3, merge=counts.append)
    finally:
        torch.set_num_threads(before)
    assert counts == [1] * 6


def test_of_several_errors_the_first_part_is_raised_and_nobody_computes_on(
    workers: Workers,
) -> None:
    together = threading.Barrier(2)
    merged: list[int] = []
    begun: list[int] = []

    def compute(index: int) -> int:
        begun.append(index)
        if index in (1, 2):
            together.wait(60)  # both are under way before either fails
            raise ZeroDivisionError(f"part {index}")
        return index

    with pytest.raises(ZeroDivisionError, match="part 1"):
        workers.run(compute, 50, threads=2, merge=merged.append)
    assert merged == [0]
    assert max(begun) <= 2
    merged.clear()
    workers.run(lambda index: index, 5, threads=2, merge=merged.append)
    assert merged == list(range(5)), "the threads are there for the next step"


def test_an_error_says_which_thread_it_happened_in(workers: Workers) -> None:
    together = threading.Barrier(2)

    def compute(index: int) -> None:
        together.wait(60)
        if threading.current_thread() is not threading.main_thread():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        workers.run(compute, 2, threads=2, merge=lambda _: None)
    assert caught.value.__notes__ == ["This happened in test-1."]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals reach no chosen thread")
def test_an_interrupt_leaves_at_once_and_drops_what_is_under_way(workers: Workers) -> None:
    together, release, ended = threading.Barrier(2), threading.Event(), threading.Event()
    merged: list[int] = []
    main = threading.main_thread()
    assert main.ident is not None

    def compute(index: int) -> int:
        together.wait(60)
        if threading.current_thread() is not main:
            signal.pthread_kill(main.ident, signal.SIGINT)  # which waits for this part by then
            release.wait(60)
            ended.set()
        return index

    with pytest.raises(KeyboardInterrupt):
        workers.run(compute, 2, threads=2, merge=merged.append)
    assert not ended.is_set(), "the other part is still under way"
    before = list(merged)
    release.set()
    workers.close()
    assert ended.is_set()
    assert merged == before
    assert not helpers()


def test_closing_ends_the_threads(workers: Workers) -> None:
    workers.close()  # without any
    workers.run(lambda index: index, 4, threads=3, merge=lambda _: None)
    assert all(thread.daemon for thread in helpers())
    workers.close()
    assert not helpers()


def test_time_without_a_core_is_told_apart(workers: Workers) -> None:
    def wait(_: int) -> None:
        time.sleep(0.02)

    assert workers.run(wait, 2, threads=1, merge=lambda _: None).share < 0.9
    assert workers.run(lambda _: None, 0, threads=1, merge=lambda _: None).share == 1
