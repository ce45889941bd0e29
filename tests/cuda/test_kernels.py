"""The CUDA kernels in the emulator: against autograd of the reference, in float64 unless said."""

import copy
import itertools

import pytest
import torch

from fwp_rl.kernels import nvrtc
from fwp_rl.resources import cuda_dir

STEPS = (1, 5, 37)
RESETS = ("never", "some", "first", "last", "every step")
HORIZONS = (None, 1, 3, 36)
EXACT = {"outputs": 1e-12, "gradients": 1e-11}
SOURCES = sorted(
    path.name for path in cuda_dir().glob("*.cuh") if "__syncthreads();" in path.read_text()
)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_autograd(case, emulator, make_inputs, outcome, assert_close, seed):
    emulator.seed = seed
    for variant, sizes in itertools.product(case.variants, (case.small, case.odd_sizes[-1])):
        T, reset = STEPS[(seed + 2) % 3], RESETS[(seed + 1) % 5]
        inputs = make_inputs(case, T, 2, 3, variant=variant, reset=reset, seed=seed, **sizes)
        expected = outcome(case, inputs, backend="reference")
        assert_close(outcome(case, inputs, backend="cuda"), expected, **EXACT)


@pytest.mark.parametrize("horizon", [1, 7, 2**32 + 1])
def test_a_horizon_ends_gradients(case, emulator, make_inputs, outcome, assert_close, horizon):
    """Chunks end after 8 and 16 steps; kernels count steps in 32 bits."""
    variants = [*case.variants]
    for variant in dict.fromkeys((variants[0], variants[-1])):
        inputs = make_inputs(case, 18, 2, 1, variant=variant, **case.odd_sizes[-1])
        inputs["gradient_horizon"] = horizon
        expected = outcome(case, inputs, backend="reference")
        assert_close(outcome(case, inputs, backend="cuda"), expected, **EXACT)


@pytest.mark.slow
def test_the_whole_matrix(case, sizes, emulator, make_inputs, outcome, assert_close):
    emulator.prepare(case.cuda.kernels_for(*sizes.values()))
    for n, (variant, T, reset) in enumerate(itertools.product(case.variants, STEPS, RESETS)):
        if T > 5 and reset in ("first", "every step"):
            continue  # most of the time, and nothing that fewer steps do not show
        emulator.seed = n
        inputs = make_inputs(case, T, 2, 1, variant=variant, reset=reset, **sizes)
        inputs["gradient_horizon"] = HORIZONS[n % 4]
        expected = outcome(case, inputs, backend="reference")
        assert_close(outcome(case, inputs, backend="cuda"), expected, **EXACT)


@pytest.mark.parametrize(
    ("dtype", "tolerances"),
    [
        pytest.param(torch.float32, (5e-6, 2e-5), marks=pytest.mark.slow),
        (torch.bfloat16, (0.02, 0.03)),
    ],
    ids=["float32", "bfloat16"],
)
def test_lower_precision(case, emulator, make_inputs, outcome, assert_close, dtype, tolerances):
    outputs, gradients = tolerances
    variant = list(case.variants)[-1]
    inputs = make_inputs(case, 37, variant=variant, **case.odd_sizes[-1])
    got = outcome(case, inputs, backend="cuda", dtype=dtype)
    expected = outcome(case, inputs, backend="reference", rounded_to=dtype)
    assert_close(got, expected, outputs=outputs, gradients=gradients)


def test_inputs_are_left_alone(case, emulator, make_inputs, outcome):
    variant = next(iter(case.variants))
    inputs = make_inputs(case, variant=variant, **case.small)
    before = copy.deepcopy(inputs)
    outcome(case, inputs, backend="cuda")
    for name, x in inputs.items():
        if not isinstance(x, str):
            torch.testing.assert_close(x, before[name], rtol=0, atol=0)


def _strided(x):
    return x.mT.contiguous().mT


def _misaligned(x):
    """A copy whose first number lies between two multiples of 16 bytes."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


@pytest.mark.parametrize("change", [_strided, _misaligned])
def test_any_layout(case, emulator, make_inputs, outcome, assert_close, change):
    inputs = make_inputs(case, variant=next(iter(case.variants)), **case.small)
    expected = outcome(case, inputs, backend="cuda")

    def changed(x):
        if isinstance(x, tuple):
            return tuple(map(changed, x))
        return change(x) if isinstance(x, torch.Tensor) else x

    inputs = {name: changed(x) for name, x in inputs.items()}
    assert_close(outcome(case, inputs, backend="cuda"), expected, outputs=0, gradients=0)


def test_a_reset_clears_what_is_not_finite(case, emulator, make_inputs, outcome, assert_close):
    """Gradients too: none comes back across a reset."""
    variant = next(iter(case.variants))
    inputs = make_inputs(case, 9, variant=variant, reset="every step", **case.small)
    expected = outcome(case, inputs, backend="reference")
    state = inputs["state"]
    broken = [
        torch.full_like(x, float("nan")) for x in (state if isinstance(state, tuple) else [state])
    ]
    inputs["state"] = tuple(broken) if isinstance(state, tuple) else broken[0]
    assert_close(outcome(case, inputs, backend="cuda"), expected, **EXACT)


def test_a_decay_of_zero_forgets_all(case, emulator, make_inputs, outcome, assert_close):
    """Its gradient is exactly 0 where every channel has its own, and nothing comes back from it."""
    if "log_decay" not in case.op.inputs:
        return
    inputs = make_inputs(case, 20, variant=next(iter(case.variants)), **case.odd_sizes[-1])
    inputs["log_decay"][9] = -float("inf")
    expected = outcome(case, inputs, backend="reference")
    got = outcome(case, inputs, backend="cuda")
    assert_close(got, expected, **EXACT)
    assert case.name == "fast_weight" or not got["gradient of log_decay"][9].any()


@pytest.mark.parametrize("source", SOURCES)
def test_every_barrier_matters(request, source, emulator, make_inputs, outcome, assert_close):
    """Without any one of them, some op goes wrong under some of three schedules."""
    lines = (cuda_dir() / source).read_text().splitlines()
    barriers = {f"{source}:{n}" for n, line in enumerate(lines, 1) if "__syncthreads();" in line}
    cases = [
        case
        for case in request.config.cuda_cases
        if any(source in nvrtc.sources(kernel.source) for kernel in case.cuda.kernels())
    ]
    for case, seed in itertools.product(cases, range(3)):
        emulator.seed = seed
        for variant in case.variants:
            if not barriers:
                return
            inputs = make_inputs(case, 37, 2, 1, variant=variant, **case.small)
            expected = outcome(case, inputs, backend="reference")
            emulator.skipped = ""
            assert_close(outcome(case, inputs, backend="cuda"), expected, **EXACT)
            for barrier in sorted(barriers):
                emulator.skipped = barrier
                try:
                    assert_close(outcome(case, inputs, backend="cuda"), expected, **EXACT)
                except AssertionError:
                    barriers.remove(barrier)
    assert not barriers, f"nothing shows when they are missing: {sorted(barriers)}"
