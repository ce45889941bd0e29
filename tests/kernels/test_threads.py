"""Kernels in several threads: those that share one call, and actors and learners beside each
other."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fwp_rl.kernels.threads import share

ACTORS_AND_LEARNERS = """
import sys, threading, torch
from cases import EVERY_OP

names = sys.argv[1].split()
learners, actors, updates = map(int, sys.argv[2:])
cases = [case for case in EVERY_OP if case.name in names]
torch.set_num_threads(2)
learned = threading.Event()
steps, failures = [0] * actors, []

def tasks(T):
    '''Cases, inputs, and what comes out of them while there is one thread.'''
    inputs = [case.inputs(T, 4, K=16, V=16, dtype=torch.float32) for case in cases]
    return [(case, x, case.outcome(x, "numba")) for case, x in zip(cases, inputs)]

def same(got, expected):
    return all(torch.equal(x, expected[name]) for name, x in got.items())

def act(number):
    with torch.no_grad():
        while not learned.is_set():
            for case, inputs, expected in acting:
                assert same(case.run(inputs, "numba"), expected), case.id
            steps[number] += 1

def learn():
    for update in range(updates):
        case, inputs, expected = learning[update % len(learning)]
        assert same(case.outcome(inputs, "numba"), expected), (case.id, update)

def reported(work, *arguments):
    try:
        work(*arguments)
    except BaseException as error:
        failures.append(error)

acting, learning = tasks(1), tasks(8)
playing = [threading.Thread(target=reported, args=(act, n)) for n in range(actors)]
working = [threading.Thread(target=reported, args=(learn,)) for _ in range(learners)]
for thread in playing + working: thread.start()
for thread in working: thread.join()
learned.set()
for thread in playing: thread.join()
print(failures, all(steps))
"""


@pytest.mark.parametrize(
    ("ops", "learners", "actors", "updates"),
    [
        pytest.param("fast_weight", 3, 0, 10, id="three learners"),
        pytest.param(
            "fast_weight recurrent_delta fast_rnn fast_lstm srwm", 1, 2, 1_000,
            id="a learner and two actors",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_threads_do_not_meet_in_the_kernels(ops, learners, actors, updates):
    path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    run = subprocess.run(
        [sys.executable, "-c", ACTORS_AND_LEARNERS, ops, *map(str, (learners, actors, updates))],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["[]", "True"]


@pytest.mark.parametrize("threads", [1, 2, 3, 40])
@pytest.mark.parametrize("count", [1, 2, 7, 33])
def test_every_item_is_computed_once(count, threads):
    done = [0] * count

    def run(first, stop):
        assert first < stop
        for n in range(first, stop):
            done[n] += 1

    share(run, count, threads)
    assert done == [1] * count


def test_an_error_is_raised_once_nobody_computes_any_more():
    ran = []

    def run(first, stop):
        ran.append(first)
        if first == 0:
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        share(run, 100, 4)
    assert len(ran) == len(set(ran)) == 16
    share(run, 0, 4)


def test_pieces_are_computed_at_a_time():
    """Each waits for the other: alone, neither would ever end."""
    meeting = threading.Barrier(2, timeout=60)
    share(lambda first, stop: meeting.wait(), 2, 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_has_threads_of_its_own():
    test_pieces_are_computed_at_a_time()
    child = os.fork()
    if not child:
        code = 1
        try:
            test_pieces_are_computed_at_a_time()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
