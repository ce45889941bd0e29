"""What only the numba backend can get wrong: buffers, memory, threads."""

import os
import subprocess
import sys

import pytest
import torch

from fwp_rl.kernels import fast_weight


@pytest.fixture
def nan_filled_buffers():
    """torch fills what it would leave uninitialised with NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("nan_filled_buffers")
@pytest.mark.parametrize("rule", ["delta", "sum"])
@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("T", [1, 5])
def test_every_buffer_is_written(make_inputs, outcome, rule, decay, T):
    for name, x in outcome(make_inputs(T=T, decay=decay), rule=rule, backend="numba").items():
        assert x.isfinite().all(), name


@pytest.mark.parametrize("rule", ["delta", "sum"])
def test_backward_keeps_the_inputs_and_u_alone(make_inputs, rule):
    inputs = make_inputs(T=37, decay=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        y, _ = fast_weight(**inputs, rule=rule, backend="numba")
    given = {x.data_ptr() for x in inputs.values() if x is not None}
    extra = {x.data_ptr(): x.nbytes for x in kept if x.data_ptr() not in given and x.nbytes}
    assert sum(extra.values()) == (y.nbytes if rule == "delta" else 0)


def test_no_gradient_means_nothing_kept(make_inputs):
    kept = []
    with (
        torch.no_grad(),
        torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x),
    ):
        y, state = fast_weight(**make_inputs(), backend="numba")
    assert not kept
    assert not y.requires_grad
    assert not state.requires_grad


def test_inference_mode(make_inputs):
    with torch.inference_mode():
        inputs = {n: None if x is None else x.clone() for n, x in make_inputs(T=1).items()}
        y, _ = fast_weight(**inputs, backend="numba")
        expected, _ = fast_weight(**inputs, backend="reference")
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("threads", [1, 2, (os.cpu_count() or 1) + 1])
def test_any_thread_count_gives_the_same_bits(make_inputs, outcome, threads):
    inputs = make_inputs(T=9, decay=True)
    expected = outcome(inputs, backend="numba")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = outcome(inputs, backend="numba")
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


TWO_LEARNERS = """
import threading, torch
from fwp_rl.kernels import fast_weight, numba_threading_layer

torch.set_num_threads(2)
x = torch.randn(32, 8, 4, 32) / 8
arguments = (x, x, x, x[..., 0].sigmoid(), torch.zeros(8, 4, 32, 32))
expected, _ = fast_weight(*arguments, backend="numba")
wrong = []

def learner():
    leaf = x.clone().requires_grad_()
    for _ in range(10):
        y, _ = fast_weight(leaf, *arguments[1:], backend="numba")
        y.sum().backward()
        if not torch.equal(y, expected):
            wrong.append(1)

learners = [threading.Thread(target=learner) for _ in range(3)]
for thread in learners: thread.start()
for thread in learners: thread.join()
print(numba_threading_layer(), len(wrong))
"""


def test_two_learner_threads_do_not_abort():
    """numba's workqueue layer kills a process in which two threads enter it at a time."""
    run = subprocess.run(
        [sys.executable, "-c", TWO_LEARNERS],
        env=os.environ | {"NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["workqueue", "0"]
