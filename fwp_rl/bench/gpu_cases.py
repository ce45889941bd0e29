"""What ``fwp_rl.bench.gpu`` shows in processes of its own: whether each op is right, its times, and
what ``gpu_policy`` has.

    python -m fwp_rl.bench.gpu_cases smoke --device cuda --ops fast_weight --skip 0

prints a line for each case that begins, ``@`` and {"begin": n, "of": count, "case": name}, and one
for its result, {"case": name, ...}, with "problem" where it failed.
"""

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from typing import Any, Final

import torch
from torch import Tensor

from fwp_rl.bench.gpu_measure import Case, milliseconds
from fwp_rl.bench.gpu_policy import policy_cases
from fwp_rl.bench.kernels import Shape, moved_bytes, peers, sizes
from fwp_rl.kernels import OPS, nvrtc
from fwp_rl.kernels.samples import doubled, flat, leaves_of, make_inputs, outcome
from fwp_rl.machine import usable_cores

__all__ = ["STAGES", "fused", "run_cases"]

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCE: Final = {"float32": (1e-5, 5e-5), "bfloat16": (0.02, 0.03)}
"""Of outputs and of gradients, relative to a tensor's largest entry."""

SMOKE: Final[dict[str, dict[str, Shape]]] = {
    "cuda": {"one warp": (5, 3, 2, 16), "many warps": (37, 4, 4, 64)},
    "cpu": {"tiny": (5, 3, 2, 16)},
}
TIMED: Final[dict[str, tuple[Shape, ...]]] = {
    "cuda": (
        (1, 32, 4, 32),
        (1, 512, 8, 64),
        (20, 32, 4, 32),
        (128, 32, 8, 64),
        (128, 512, 8, 64),
    ),
    "cpu": ((1, 2, 2, 8), (5, 2, 2, 8)),
}


def run_cases(stage: str, device: str, ops: Sequence[str], skip: int) -> None:
    """Run a stage's cases from one on; a line for each that begins, and one for its result."""
    cases = list(STAGES[stage](device, ops))
    for n, case in enumerate(cases[skip:], start=skip):
        _say(begin=n, of=len(cases), case=case.name)
        start = time.perf_counter()
        try:
            facts = case.run()
        except Exception as error:  # of every kind: a GPU's are
            (first, *_) = str(error).splitlines() or [""]
            _say(case=case.name, problem=f"{type(error).__name__}: {first}"[:400])
            if device == "cuda":
                torch.cuda.synchronize()  # raises, and ends this process, if the context is gone
                torch.cuda.empty_cache()
            continue
        _say(case=case.name, **facts, seconds=round(time.perf_counter() - start, 2))


def _say(**facts: Any) -> None:
    print(f"@{json.dumps(facts)}", flush=True)


def fused(device: str) -> str:
    return "cuda" if device == "cuda" else "numba"


def _inputs(
    op: str, shape: Shape, dtype: torch.dtype, device: str, seed: int = 0
) -> dict[str, Any]:
    """Arguments of an op on a device: floats of a dtype beside a state of float32."""
    return make_inputs(
        OPS[op], sizes(shape), dtype=dtype, state_dtype=torch.float32, device=device, seed=seed
    )


def _smoke_cases(device: str, ops: Sequence[str]) -> Iterator[Case]:
    # In a process that has run no CUDA: autograd's own thread launches our kernel before anything.
    yield Case("the first backward pass of the process", partial(_first_backward, device))
    if device == "cuda":
        yield Case("all kernels compile", _compile_all)
    for op in ops:
        for dtype in DTYPES:
            for what, shape in SMOKE[device].items():
                case = partial(_agrees, op, shape, dtype, device)
                yield Case(f"{op}, {dtype}, {what}", case)
            if device == "cuda":
                yield Case(f"{op}, {dtype}, CUDA graphs", partial(_graphs_agree, op, dtype))
                yield Case(f"{op}, {dtype}, a new thread", partial(_thread_agrees, op, dtype))


def _first_backward(device: str) -> dict[str, Any]:
    q, k, v = torch.rand(3, 5, 2, 2, 16, device=device).softmax(-1).unbind()
    beta, state = torch.rand(5, 2, 2, device=device), torch.zeros(2, 2, 16, 16, device=device)
    y, _ = OPS["fast_weight"].run(q.requires_grad_(), k, v, beta, state, backend=fused(device))
    (gradient,) = torch.autograd.grad(y, q, torch.ones_like(y))
    assert gradient.isfinite().all()
    return {}


def _compile_all() -> dict[str, Any]:
    """All kernels of all ops into the cache, on all cores."""
    architecture = "sm_{}{}".format(*torch.cuda.get_device_capability())
    kernels = {
        kernel for op in OPS for kernel in import_module(f"fwp_rl.kernels.{op}.cuda").kernels()
    }
    work = [(kernel, scalar) for kernel in kernels for scalar in nvrtc.SCALARS.values()]
    start = time.perf_counter()
    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(lambda x: nvrtc.cubin(x[0], x[1], architecture), work))
    seconds = time.perf_counter() - start
    return {"said": f"{len(work)} kernels in {seconds:.1f} s with NVRTC {nvrtc.nvrtc_version()}"}


def _agrees(op: str, shape: Shape, dtype: str, device: str) -> dict[str, Any]:
    """Outputs and all gradients against the reference in float64 on the CPU."""
    inputs = _inputs(op, shape, DTYPES[dtype], device)
    got = outcome(OPS[op], inputs, fused(device))
    on_cpu = {name: _moved(x) for name, x in inputs.items()}
    expected = outcome(OPS[op], doubled(on_cpu), "reference")
    outputs, gradients = TOLERANCE[dtype]
    worst = 0.0
    for name, truth in expected.items():
        error = float((got[name].cpu().double() - truth).abs().max() / truth.abs().max())
        share = error / (gradients if name.startswith("gradient") else outputs)
        assert share <= 1, f"{name} is off by {error:.1e} of its largest entry"
        worst = max(worst, share)
    return {"said": f"ok, {worst:.2f} of the tolerance", "share_of_tolerance": worst}


def _moved(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(map(_moved, x))
    return x.detach().cpu() if isinstance(x, Tensor) else x


def _graphs_agree(op: str, dtype: str) -> dict[str, Any]:
    """Acting, and forward with backward: a graph's replay on other inputs gives the eager bits."""
    for shape in ((1, 3, 2, 16), SMOKE["cuda"]["many warps"]):
        inputs, others = (_inputs(op, shape, DTYPES[dtype], "cuda", seed) for seed in (0, 1))
        leaves = leaves_of(inputs) if shape[0] > 1 else []
        work = partial(_passes, partial(OPS[op].run, **inputs, backend="cuda"), leaves)
        replay, results = _graph(work)
        with torch.no_grad():
            for x, value in zip(flat(inputs), flat(others), strict=True):
                x.copy_(value)
        replay()
        torch.cuda.synchronize()
        assert all(map(torch.equal, results, work())), f"a replay differs at {shape}"
    return {}


def _passes(forward: Callable[[], Any], leaves: list[Tensor]) -> list[Tensor]:
    """Results of an op and, where there are leaves, the gradients of a loss on all of them."""
    with torch.set_grad_enabled(bool(leaves)):
        results = flat(forward())
    if not leaves:
        return results
    ones = [torch.ones_like(x) for x in results]
    return [*(x.detach() for x in results), *torch.autograd.grad(results, leaves, ones)]


def _graph(work: Callable[[], list[Tensor]]) -> tuple[Callable[[], object], list[Tensor]]:
    """The replay of a graph of ``work``, and the tensors that it writes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # loads kernels, which a capture cannot
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = work()
    return graph.replay, results


def _thread_agrees(op: str, dtype: str) -> dict[str, Any]:
    """A Python thread that never ran CUDA, with a kernel that is not loaded yet."""
    inputs = _inputs(op, (5, 3, 2, 32), DTYPES[dtype], "cuda")
    torch.cuda.synchronize()
    leaves, found = leaves_of(inputs), []

    def work() -> None:
        found.extend(_passes(partial(OPS[op].run, **inputs, backend="cuda"), leaves))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    torch.cuda.synchronize()
    assert found, "the thread ended with an exception, see log.txt"
    expected = _passes(partial(OPS[op].run, **inputs, backend="cuda"), leaves)
    assert all(map(torch.equal, found, expected)), "another result than in the first thread"
    return {}


def _time_cases(device: str, ops: Sequence[str]) -> Iterator[Case]:
    if device == "cuda":
        yield Case("all kernels compile", _compile_all)
    yield Case("speed of a copy", partial(_copy_speed, device))
    for op in ops:
        for shape in TIMED[device]:
            for dtype in DTYPES:
                case = partial(_timed, op, shape, dtype, device)
                yield Case(f"{op}, {dtype}, {shape}", case)


def _copy_speed(device: str) -> dict[str, Any]:
    source = torch.ones(2**28 if device == "cuda" else 2**20, device=device)
    target = torch.empty_like(source)
    seconds = milliseconds(lambda: target.copy_(source), device) / 1000
    speed = 2 * source.nbytes / seconds
    return {"bytes_per_second": speed, "said": f"{speed / 1e9:,.0f} GB/s, read and written"}


def _timed(op: str, shape: Shape, dtype: str, device: str) -> dict[str, Any]:
    """Milliseconds of acting (T = 1) or of forward, and of forward with backward."""
    inputs = _inputs(op, shape, DTYPES[dtype], device)
    learning = shape[0] > 1
    ours = partial(OPS[op].run, **inputs, backend=fused(device))
    moved = moved_bytes(OPS[op], inputs, learning=False)
    facts: dict[str, Any] = {"shape": shape, "moved_bytes": moved}
    leaves = leaves_of(inputs) if learning else []
    runs: dict[str, tuple[Callable[[], Any], list[Tensor]]] = {fused(device): (ours, leaves)}
    if dtype == "float32" and op == "fast_weight":  # the others' sizes are the same
        runs |= peers(op, shape, device, inputs)
        forward, its_leaves = runs["lstm"]
        runs["lstm_without_tf32"] = (partial(_without_tf32, forward), its_leaves)
    for name, (forward, its_leaves) in runs.items():
        ways = [("forward", []), ("forward_backward", its_leaves)]
        for way, wanted in ways if its_leaves else ways[:1]:
            work = partial(_passes, forward, wanted)
            facts[f"{name}_{way}"] = milliseconds(work, device)
            if device == "cuda":
                facts[f"{name}_{way}_graph"] = _graph_milliseconds(work)
    best = min(x for name, x in facts.items() if "_forward" in name and isinstance(x, float))
    return {**facts, "said": f"forward {best:.4f} ms"}


def _without_tf32(forward: Callable[[], Any]) -> Any:
    """cuDNN multiplies in TF32 by default, torch's other products in plain float32."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        return forward()


def _graph_milliseconds(work: Callable[[], list[Tensor]]) -> float | str:
    """Of a replay; why there is none, where the work cannot be captured."""
    try:
        return milliseconds(_graph(work)[0], "cuda")
    except RuntimeError as error:
        torch.cuda.synchronize()
        return str(error).partition("\n")[0][:200]


STAGES: Final[dict[str, Callable[[str, Sequence[str]], Iterator[Case]]]] = {
    "smoke": _smoke_cases,
    "times": _time_cases,
    "policy": lambda device, ops: policy_cases(device),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fwp_rl.bench.gpu_cases")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--ops", nargs="+", choices=OPS, required=True)
    parser.add_argument("--skip", type=int, required=True)
    run_cases(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
