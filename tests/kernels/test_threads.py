"""Actors and a learner in one process, on numba's poorest threading layer."""

import os
import subprocess
import sys

import pytest

UPDATES = 1_000

ACTORS_AND_LEARNER = f"""
import threading, torch
from fwp_rl.kernels import OPS, numba_threading_layer
from fwp_rl.kernels.samples import flat, make_inputs

torch.set_num_threads(2)
sizes = {{"T": 8, "B": 4, "H": 2, "K": 16, "V": 16}}
learned = threading.Event()
steps = [0, 0]
failures = []

def act(number):
    try:
        one = sizes | {{"T": 1}}
        inputs = {{name: make_inputs(op, one, seed=number) for name, op in OPS.items()}}
        with torch.no_grad():
            while not learned.is_set():
                for name, op in OPS.items():
                    y, state = op.run(**inputs[name], backend="numba")
                    inputs[name]["state"] = state
                    assert all(x.isfinite().all() for x in flat((y, state))), name
                steps[number] += 1
    except BaseException as error:
        failures.append(error)

def learn():
    try:
        for update in range({UPDATES}):
            op = list(OPS.values())[update % len(OPS)]
            inputs = make_inputs(op, sizes, seed=update % len(OPS))
            leaves = [x.requires_grad_() for x in flat(inputs) if x.is_floating_point()]
            outputs = flat(op.run(**inputs, backend="numba"))
            gradients = torch.autograd.grad(outputs, leaves, [torch.ones_like(x) for x in outputs])
            expected = first.setdefault(update % len(OPS), gradients)
            assert all(map(torch.equal, gradients, expected)), update
    except BaseException as error:
        failures.append(error)
    finally:
        learned.set()

first = {{}}
threads = [threading.Thread(target=act, args=(number,)) for number in range(2)]
threads.append(threading.Thread(target=learn))
for thread in threads: thread.start()
for thread in threads: thread.join()
print(numba_threading_layer(), failures, min(steps) > 0)
"""


@pytest.mark.slow
def test_two_actors_and_a_learner_on_workqueue():
    """That layer aborts the process when two Python threads enter it at a time."""
    run = subprocess.run(
        [sys.executable, "-c", ACTORS_AND_LEARNER],
        env=os.environ | {"NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["workqueue", "[]", "True"]
