"""What only the numba kernels can get wrong: buffers, memory, threads."""

import os

import pytest
import torch

from .cases import EVERY_CASE, EVERY_OP, over

KEPT = {
    "diagonal": lambda K, V: 0,  # h is replayed
    "fast_weight": lambda K, V, rule: V if rule == "delta" else 0,  # u
    "fast_weight_channels": lambda K, V, rule: V if rule == "delta" else 0,
    "recurrent_delta": lambda K, V: 2 * V + 2 * K + 1,  # s, q, k, beta, u
    "fast_rnn": lambda K, V, query, output: 3 * V if output == "softmax" else 2 * V,  # query, u; y
    "fast_lstm": lambda K, V: 8 * V,  # the query, the cell; of three gates u and the gate
    "srwm": lambda K, V: V + 5 * K + 8,  # s, q, k; beta of four rates; e of all rows
}
"""Numbers that every step and head keep for the backward pass, beside the inputs."""


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
@over(EVERY_CASE)
def test_every_buffer_is_written(case, T):
    for name, x in case.outcome(case.inputs(T), "numba").items():
        assert x.isfinite().all(), name


def kept_by(case, inputs):
    """The results, and the bytes that autograd keeps of a call beside its inputs."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        results = case.run(inputs, "numba")
    given = {x.data_ptr() for x in inputs.values() if x is not None}
    sizes = {x.data_ptr(): x.nbytes for x in kept if x.data_ptr() not in given}
    return results, sum(sizes.values())


@pytest.mark.parametrize("T", [1, 70])
@over(EVERY_CASE)
def test_vectors_of_every_step_are_kept_and_no_matrix(case, T):
    _, kept = kept_by(case, case.inputs(T, B=3, H=2, K=5, V=7, dtype=torch.float32))
    assert kept == T * 3 * 2 * KEPT[case.name](5, 7, **case.options) * 4


@over(EVERY_OP)
def test_no_gradient_means_nothing_kept(case):
    with torch.no_grad():
        results, kept = kept_by(case, case.inputs())
    assert not kept
    assert not any(x.requires_grad for x in results.values())


@pytest.mark.parametrize("threads", [1, 2, (os.cpu_count() or 1) + 1])
@over(EVERY_OP)
def test_any_number_of_threads_gives_the_same_bits(case, threads):
    inputs = case.inputs(T=40, B=4, H=2, reset="random")  # each head of each column is its own
    expected = case.outcome(inputs, "numba")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = case.outcome(inputs, "numba")
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
