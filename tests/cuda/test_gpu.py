"""The CUDA kernels on a GPU, against the reference in float64 on the CPU.

torch, numba and pytest are all it needs: ``python -m pytest -m gpu``.
"""

import contextlib
import itertools
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fwp_rl.kernels import BackendError, backend_status, cuda_driver, nvrtc
from fwp_rl.machine import usable_cores

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

STEPS = (1, 5, 37)
HORIZONS = (None, 1, 3, 36)
RESETS = ("never", "some", "first", "last", "every step")
FLOAT32 = {"outputs": 1e-5, "gradients": 5e-5}
BFLOAT16 = {"outputs": 0.02, "gradients": 0.03}


@pytest.fixture(scope="module", autouse=True)
def _compiled(request):
    """All kernels are in the user's cache: compiled on all cores at once. One that does not compile
    fails in the tests that launch it, not here for all of them."""
    architecture = "sm_{}{}".format(*torch.cuda.get_device_capability())
    kernels = [kernel for case in request.config.cuda_cases for kernel in case.cuda.kernels()]

    def compiled(kernel, scalar):
        with contextlib.suppress(BackendError):
            nvrtc.cubin(kernel, scalar, architecture)

    with ThreadPoolExecutor(usable_cores()) as pool:
        for scalar in nvrtc.SCALARS.values():
            list(pool.map(lambda x, scalar=scalar: compiled(x, scalar), kernels))


def _first_variant(case):
    return next(iter(case.variants))


def _on_device(inputs, dtype=torch.float32):
    """Inputs of an op on the GPU, without gradients."""

    def move(x):
        if isinstance(x, tuple):
            return tuple(map(move, x))
        if not isinstance(x, torch.Tensor):
            return x
        return x.to("cuda", dtype if x.is_floating_point() else x.dtype)

    return {name: move(x) for name, x in inputs.items()}


def _tensors(tree):
    """Every tensor in nested tuples and dicts."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    return [x for branch in tree for x in _tensors(branch)] if isinstance(tree, tuple) else []


def test_the_backend_is_available():
    assert backend_status()["cuda"].available, backend_status()["cuda"].reason


def test_agrees_with_the_reference(case, sizes, make_inputs, outcome, assert_close):
    for n, (variant, T, reset) in enumerate(itertools.product(case.variants, STEPS, RESETS)):
        inputs = make_inputs(case, T, variant=variant, reset=reset, **sizes)
        inputs["gradient_horizon"] = HORIZONS[n % 4]
        got = outcome(case, inputs, backend="cuda", dtype=torch.float32, device="cuda")
        expected = outcome(case, inputs, backend="reference", rounded_to=torch.float32)
        assert_close(got, expected, **FLOAT32)


def test_agrees_in_bfloat16(case, sizes, make_inputs, outcome, assert_close):
    for variant in case.variants:
        inputs = make_inputs(case, 37, variant=variant, **sizes)
        got = outcome(case, inputs, backend="cuda", dtype=torch.bfloat16, device="cuda")
        expected = outcome(case, inputs, backend="reference", rounded_to=torch.bfloat16)
        assert_close(got, expected, **BFLOAT16)


def test_many_heads_and_steps(case, make_inputs, outcome, assert_close):
    """More blocks than run at once, in a batch that training has."""
    inputs = make_inputs(case, 20, 128, 4, variant=_first_variant(case), **case.small)
    got = outcome(case, inputs, backend="cuda", dtype=torch.float32, device="cuda")
    expected = outcome(case, inputs, backend="reference", rounded_to=torch.float32)
    assert_close(got, expected, **FLOAT32)
    again = outcome(case, inputs, backend="cuda", dtype=torch.float32, device="cuda")
    assert_close(again, got, outputs=0, gradients=0)


def test_auto_takes_the_kernel(case, make_inputs):
    inputs = _on_device(make_inputs(case, variant=_first_variant(case), **case.small))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        taken, asked = (_tensors(case.op.run(**inputs, backend=x)) for x in ("auto", "cuda"))
    assert all(map(torch.equal, taken, asked))


def test_what_the_kernel_does_not_take(case, make_inputs, outcome, assert_close):
    largest = {letter: max(sizes[letter] for sizes in case.sizes) + 1 for letter in case.small}
    inputs = make_inputs(case, variant=_first_variant(case), **largest)
    with pytest.raises(BackendError, match=r"backend 'cuda' .* takes . up to \d+, the inputs have"):
        case.op.run(**_on_device(inputs), backend="cuda")
    with pytest.raises(BackendError, match="computes in float32, the inputs are float64"):
        case.op.run(**_on_device(inputs, torch.float64), backend="cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = outcome(case, inputs, backend="auto", dtype=torch.float32, device="cuda")
    expected = outcome(case, inputs, backend="reference", rounded_to=torch.float32)
    assert_close(got, expected, **FLOAT32)


def test_the_current_stream(case, make_inputs):
    """The inputs are written on another stream than the default one, after a long wait."""
    inputs = make_inputs(case, variant=_first_variant(case), **case.small)
    on_device = _on_device(inputs)
    expected = _tensors(case.op.run(**on_device, backend="cuda"))
    empty = _on_device(inputs)
    for x in _tensors(empty):
        x.zero_()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        for x, value in zip(_tensors(empty), _tensors(on_device), strict=True):
            x.copy_(value)
        got = _tensors(case.op.run(**empty, backend="cuda"))
    stream.synchronize()
    assert all(map(torch.equal, got, expected))


def _captured(work):
    """A CUDA graph of ``work``, and what it returns."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph, result


def _replayed_equals_eager(inputs, others, work):
    graph, result = _captured(lambda: work(inputs))
    for x, value in zip(_tensors(inputs), _tensors(others), strict=True):
        x.data.copy_(value)
    graph.replay()
    torch.cuda.synchronize()
    assert all(map(torch.equal, _tensors(result), _tensors(work(inputs))))


def test_graph_of_acting(case, make_inputs):
    inputs, others = (
        _on_device(make_inputs(case, 1, variant=_first_variant(case), seed=seed, **case.small))
        for seed in (0, 1)
    )
    with torch.no_grad():
        _replayed_equals_eager(inputs, others, lambda x: case.op.run(**x, backend="cuda"))


def test_graph_of_forward_and_backward(case, make_inputs):
    inputs, others = (
        _on_device(make_inputs(case, 20, variant=_first_variant(case), seed=seed, **case.small))
        for seed in (0, 1)
    )
    leaves = [x.requires_grad_() for x in _tensors(inputs) if x.is_floating_point()]

    def work(inputs):
        results = _tensors(case.op.run(**inputs, backend="cuda"))
        loss = sum(x.square().sum() for x in results)
        return (*results, *torch.autograd.grad(loss, leaves))

    _replayed_equals_eager(inputs, others, work)


def test_a_first_use_inside_a_capture_is_refused(case, make_inputs, monkeypatch):
    inputs = _on_device(make_inputs(case, 1, variant=_first_variant(case), **case.small))
    monkeypatch.setattr(cuda_driver, "_functions", {})
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(BackendError, match="before the capture"), torch.cuda.graph(graph):
        case.op.run(**inputs, backend="cuda")
    torch.cuda.synchronize()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_acting_launches_one_kernel(case, make_inputs, dtype):
    """bfloat16 beside the casts of the state, which is kept in float32."""
    inputs = _on_device(make_inputs(case, 1, variant=_first_variant(case), **case.small), dtype)
    with torch.no_grad():
        case.op.run(**inputs, backend="cuda")
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            case.op.run(**inputs, backend="cuda")
            torch.cuda.synchronize()
    names = [
        event.name
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and "Mem" not in event.name
    ]
    if not names:
        pytest.skip("the profiler sees no kernels here")
    ours = [name for name in names if any(k.name in name for k in case.cuda.kernels())]
    assert len(ours) == 1
    assert dtype == torch.bfloat16 or len(names) == 1, names


def test_registration(case, make_inputs, monkeypatch):
    seen = []
    run = case.op.backends["cuda"]
    monkeypatch.setitem(case.op.backends, "cuda", lambda *x: seen.append(x) or run(*x))
    inputs = _on_device(make_inputs(case, variant=_first_variant(case), **case.small))
    case.op.run(**inputs, backend="cuda")
    (arguments,) = seen
    arguments = [
        x.requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for x in arguments
    ]
    torch.library.opcheck(getattr(torch.ops.fwp_rl, case.name).default, arguments)


def test_compiles_into_one_graph(case, make_inputs):
    inputs = _on_device(make_inputs(case, variant=_first_variant(case), **case.small))
    compiled = torch.compile(case.op.run, fullgraph=True, backend="aot_eager")
    got, expected = (_tensors(f(**inputs, backend="cuda")) for f in (compiled, case.op.run))
    assert all(map(torch.equal, got, expected))


def test_autocast_computes_in_float32(case, make_inputs):
    inputs = _on_device(make_inputs(case, variant=_first_variant(case), **case.small))
    expected = _tensors(case.op.run(**inputs, backend="cuda"))
    with torch.autocast("cuda", torch.bfloat16):
        got = _tensors(case.op.run(**inputs, backend="cuda"))
    assert all(map(torch.equal, got, expected))


def test_misaligned_inputs(case, make_inputs):
    """Four numbers are read at once only where they may be."""
    inputs = _on_device(make_inputs(case, variant=_first_variant(case), **case.small))
    expected = _tensors(case.op.run(**inputs, backend="cuda"))

    def misaligned(x):
        if isinstance(x, tuple):
            return tuple(map(misaligned, x))
        if not isinstance(x, torch.Tensor):
            return x
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)

    inputs = {name: misaligned(x) for name, x in inputs.items()}
    assert all(map(torch.equal, _tensors(case.op.run(**inputs, backend="cuda")), expected))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_device_that_is_not_the_current_one(case, make_inputs):
    inputs = _on_device(make_inputs(case, variant=_first_variant(case), **case.small))
    expected = _tensors(case.op.run(**inputs, backend="cuda"))
    second = {
        name: tuple(y.to("cuda:1") for y in x) if isinstance(x, tuple) else x
        for name, x in inputs.items()
    }
    second = {n: x.to("cuda:1") if isinstance(x, torch.Tensor) else x for n, x in second.items()}
    got = _tensors(case.op.run(**second, backend="cuda"))
    assert all(x.device.index == 1 for x in got)
    assert all(torch.equal(x.cpu(), y.cpu()) for x, y in zip(got, expected, strict=True))


def test_part_of_the_matrix(case, make_inputs, outcome, assert_close):
    """What compute-sanitizer looks at: ``python -m fwp_rl.bench.gpu``."""
    for variant, sizes, T in itertools.product(
        case.variants, (case.small, *case.odd_sizes), (1, 37)
    ):
        inputs = make_inputs(case, T, variant=variant, **sizes)
        got = outcome(case, inputs, backend="cuda", dtype=torch.float32, device="cuda")
        expected = outcome(case, inputs, backend="reference", rounded_to=torch.float32)
        assert_close(got, expected, **FLOAT32)
