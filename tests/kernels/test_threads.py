"""Actors and learners in one process, on numba's poorest threading layer, workqueue: it aborts the
process when two Python threads enter it at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ACTORS_AND_LEARNERS = """
import sys, threading, torch
from cases import EVERY_OP
from fwp_rl.kernels import numba_threading_layer

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
print(numba_threading_layer(), failures, all(steps))
"""


@pytest.mark.parametrize(
    ("ops", "learners", "actors", "updates"),
    [
        pytest.param("fast_weight", 3, 0, 10, id="three learners"),
        pytest.param(
            "fast_weight recurrent_delta fast_rnn fast_lstm srwm diagonal", 1, 2, 1_000,
            id="a learner and two actors",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_threads_do_not_meet_in_the_kernels(ops, learners, actors, updates):
    run = subprocess.run(
        [sys.executable, "-c", ACTORS_AND_LEARNERS, ops, *map(str, (learners, actors, updates))],
        env=os.environ
        | {"NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"}
        | {
            "PYTHONPATH": os.pathsep.join(
                [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
            )
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["workqueue", "[]", "True"]
