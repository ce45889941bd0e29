"""What ``fwp_rl.bench.gpu`` shows of policies and cores: recurrent nets with resets, what a policy
launches, what TF32 changes, how convolutions are chosen. Needs no environment.
"""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Literal

import torch
from torch import Tensor

from fwp_rl.bench.gpu_measure import Case, milliseconds
from fwp_rl.cores import CORES, Core, build_core
from fwp_rl.machine import set_gpu_arithmetic
from fwp_rl.models.categorical import sample_action
from fwp_rl.models.encoders import ImpalaResnetConfig, NatureCNNConfig
from fwp_rl.models.policy import Policy, PolicyConfig
from fwp_rl.types import EnvSpec, Observation, State

__all__ = ["policy_cases"]

SCREENS: Final = EnvSpec(name="screens", observation_shape=(4, 84, 84), num_actions=6)
LIVES: Final = (200, 20)
"""Mean steps from one reset of a column to its next."""

# T, B of acting, of a learner's batch, and of cores by themselves
SIZES: Final[dict[str, dict[str, tuple[int, int]]]] = {
    "cuda": {"acting": (1, 32), "learning": (128, 8), "core": (128, 32), "wide": (128, 512)},
    "cpu": {"acting": (1, 2), "learning": (3, 2), "core": (9, 3), "wide": (9, 4)},
}


def policy_cases(device: str) -> Iterator[Case]:
    """The most important first."""
    sizes = SIZES[device]
    for core in ("lstm", "gru"):
        for name in ("core", "wide"):
            for life in LIVES:
                T, B = sizes[name]
                case = partial(_with_resets, core, T, B, life, device)
                yield Case(f"{core}, ({T}, {B}), a reset in {life} steps", case)
    for core in ("delta_net", "lstm"):
        for what in ("acting", "learning"):
            T, B = sizes[what]
            yield Case(f"{core}, {what} at ({T}, {B})", partial(_calls, core, T, B, device))
    for core in ("delta_net", "recurrent_delta_net", "lstm", "gtrxl"):
        yield Case(f"{core}, TF32", partial(_tf32, core, *sizes["core"], device))
    for encoder in (NatureCNNConfig(), ImpalaResnetConfig()):
        case = partial(_cudnn_benchmark, encoder, math.prod(sizes["learning"]), device)
        yield Case(f"{type(encoder).__name__}, cuDNN's own choice and the fastest", case)


def _with_resets(core: str, T: int, B: int, life: int, device: str) -> dict[str, Any]:
    """A recurrent net packed, as a GPU runs it, and cut along time, as a CPU does: whether the
    results agree, and milliseconds of a learner's two passes."""
    set_gpu_arithmetic("float32")
    net: Any = build_core(CORES[core](), 257).to(device)
    x, state, _ = _inputs(net, T, B, device)
    reset = torch.rand(T, B, device=device) < 1 / life
    reset[T // 2, 0] = True
    work = partial(_both_passes, net, x, state, reset)
    found: dict[str, list[Tensor]] = {}
    times: dict[str, float] = {}
    for net.way in ("packed", "cut"):
        found[net.way] = work()
        times[f"{net.way}_ms"] = milliseconds(work, device)
    error = max(map(_relative, found["packed"], found["cut"]))
    assert error < 1e-4, f"packed and cut differ by {error:.1e} of the largest entry"
    pieces = int(reset[1:].any(1).sum()) + 1
    said = f"packed {times['packed_ms']:.3f} ms, cut into {pieces} {times['cut_ms']:.3f} ms"
    return {**times, "pieces": pieces, "error": error, "said": said}


def _calls(core: str, T: int, B: int, device: str) -> dict[str, Any]:
    """What the host asks of the driver, and milliseconds, for an acting step (T = 1: the policy and
    its action) or both passes of a learner."""
    set_gpu_arithmetic("float32")
    policy = Policy(PolicyConfig(encoder=NatureCNNConfig(), core=CORES[core]()), SCREENS).to(device)
    observation = Observation(
        obs=torch.zeros(T, B, *SCREENS.observation_shape, dtype=torch.uint8, device=device),
        reset=torch.zeros(T, B, dtype=torch.bool, device=device),
        last_reward=torch.zeros(T, B, device=device),
        last_action=torch.zeros(T, B, dtype=torch.int64, device=device),
    )
    state = policy.initial_state(B)

    def act() -> None:
        with torch.no_grad():
            sample_action(policy(observation, state).logits[0])

    def learn() -> None:
        output = policy(observation, state)
        (output.logits.sum() + output.value.sum()).backward()

    work = act if T == 1 else learn
    facts: dict[str, Any] = {"ms": milliseconds(work, device)}
    if device == "cpu":
        return {**facts, "said": f"{facts['ms']:.3f} ms"}
    asked = _driver_calls(work)
    launches = sum(n for name, n in asked.items() if "Launch" in name)
    waits = sum(n for name, n in asked.items() if "Synchronize" in name) - 1  # the last is ours
    said = f"{launches} launches, {waits} waits, {facts['ms']:.3f} ms"
    return {**facts, "launches": launches, "waits": waits, "asked": dict(asked), "said": said}


def _driver_calls(work: Callable[[], object]) -> Counter[str]:
    """Name → number of calls of CUDA's runtime and driver."""
    work()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        work()
        torch.cuda.synchronize()
    counts: Counter[str] = Counter()
    for event in profile.key_averages():
        if event.key.startswith("cu") and "::" not in event.key:
            counts[event.key] += event.count
    return counts


def _tf32(core: str, T: int, B: int, device: str) -> dict[str, Any]:
    """Both passes of a core in float32 and in TF32: milliseconds, and how far results and gradients
    are from those in float64 on the CPU, of a tensor's largest entry."""
    net = build_core(CORES[core](), 257).to(device)
    inputs = _inputs(net, T, B, device)
    exact = copy.deepcopy(net).cpu().double()
    x, state, reset = (_as_double(x) for x in inputs)
    truth = _both_passes(exact, x, state, reset)
    facts: dict[str, Any] = {}
    precisions: tuple[Literal["float32", "tf32"], ...] = ("float32", "tf32")
    for precision in precisions:
        set_gpu_arithmetic(precision)
        work = partial(_both_passes, net, *inputs)
        facts[f"{precision}_error"] = max(map(_relative, work(), truth))
        facts[f"{precision}_ms"] = milliseconds(work, device)
    set_gpu_arithmetic("float32")
    said = [f"{x} {facts[f'{x}_ms']:.3f} ms, {facts[f'{x}_error']:.0e} off" for x in precisions]
    return {**facts, "said": "; ".join(said)}


def _cudnn_benchmark(encoder: Any, images: int, device: str) -> dict[str, Any]:
    """Both passes of an encoder in bfloat16, by cuDNN's heuristics and by its timings."""
    set_gpu_arithmetic("float32")
    module = encoder.build(SCREENS.observation_shape).to(device)
    obs = torch.zeros(images, *SCREENS.observation_shape, dtype=torch.uint8, device=device)

    def learn() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            features = module(obs)
        features.float().sum().backward()

    facts = {}
    for name, benchmark in (("heuristic_ms", False), ("fastest_ms", True)):
        torch.backends.cudnn.benchmark = benchmark
        facts[name] = milliseconds(learn, device)
    said = f"{facts['heuristic_ms']:.3f} ms, {facts['fastest_ms']:.3f} ms"
    return {**facts, "said": said}


def _inputs(core: Core, T: int, B: int, device: str) -> tuple[Tensor, State, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(T, B, core.input_size, device=device, requires_grad=True)
    reset = torch.zeros(T, B, dtype=torch.bool, device=device)
    return x, core.initial_state(B, device), reset


def _as_double(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(map(_as_double, x))
    moved = x.detach().cpu()
    return moved.double().requires_grad_(x.requires_grad) if x.is_floating_point() else moved


def _both_passes(core: Core, x: Tensor, state: State, reset: Tensor) -> list[Tensor]:
    """Outputs, and the gradients of their squares to the inputs and all weights."""
    y, _ = core(x, state, reset)
    leaves = [x, *core.parameters()]
    found = torch.autograd.grad(y.square().sum(), leaves, allow_unused=True, materialize_grads=True)
    return [y.detach(), *found]


def _relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference, of the largest entry."""
    found, expected = (x.detach().cpu().double() for x in (found, expected))
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
