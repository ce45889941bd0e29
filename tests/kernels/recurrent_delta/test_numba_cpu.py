"""What only the numba backend can get wrong: buffers and threads."""

import os

import pytest
import torch


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
@pytest.mark.parametrize("T", [1, 5, 33])
def test_every_buffer_is_written(make_inputs, outcome, T):
    for name, x in outcome(make_inputs(T=T), backend="numba").items():
        assert x.isfinite().all(), name


def test_inference_mode(make_inputs, call):
    with torch.inference_mode():
        inputs = {n: None if x is None else x.clone() for n, x in make_inputs(T=1).items()}
        y = call(inputs, backend="numba")["y"]
        expected = call(inputs, backend="reference")["y"]
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("threads", [1, 2, (os.cpu_count() or 1) + 1])
def test_any_thread_count_gives_the_same_bits(make_inputs, outcome, threads):
    inputs = make_inputs(T=40)
    expected = outcome(inputs, backend="numba")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = outcome(inputs, backend="numba")
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
