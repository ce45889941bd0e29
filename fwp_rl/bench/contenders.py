"""What a kernel is compared with: other forms of its op, layers that are not ours, and what the
machine could do at most."""

import importlib.util
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fwp_rl.kernels import OPS
from fwp_rl.kernels.op import Op
from fwp_rl.kernels.samples import flat, leaves_of

__all__ = ["Shape", "contenders", "copy", "moved_bytes", "peers", "product", "seconds_of"]

Shape = tuple[int, int, int, int]
"""T steps, B columns, H heads, K = V = D."""


def contenders(
    name: str, shape: Shape, device: str, fused: str, inputs: dict[str, Any]
) -> dict[str, Callable[[], object]]:
    """Both passes of an op by backend and of its peers, forward alone where T is 1."""
    op, T = OPS[name], shape[0]
    leaves = leaves_of(inputs) if T > 1 else []
    backends = [fused, "reference", *(["chunkwise"] if "chunkwise" in op.backends else [])]
    runs: dict[str, Callable[[], object]] = {
        backend: partial(_pass, partial(op.run, **inputs, backend=backend), leaves)
        for backend in backends
    }
    if name == "fast_weight_channels":
        runs["scalar decay"] = partial(_pass, *_of_one_decay(inputs, fused, learning=T > 1))
    others = peers(name, shape, device, inputs)
    return runs | {peer: partial(_pass, *other) for peer, other in others.items()}


def peers(
    name: str, shape: Shape, device: str, inputs: dict[str, Any]
) -> dict[str, tuple[Callable[[], Any], list[Tensor]]]:
    """What an op is compared with that is not ours, by name: its forward pass, and where T > 1 the
    leaves of its backward pass."""
    T, B, H, D = shape
    learning = T > 1
    lstm = torch.nn.LSTM(H * D, H * D).to(device)
    x, h, c = (torch.randn(n, B, H * D, device=device, requires_grad=learning) for n in (T, 1, 1))
    lstm_leaves = [x, h, c, *lstm.parameters()] if learning else []
    found: dict[str, tuple[Callable[[], Any], list[Tensor]]]
    found = {"lstm": (partial(lstm, x, (h, c)), lstm_leaves)}
    if device == "cuda" and name == "fast_weight" and importlib.util.find_spec("fla"):
        try:
            found["fla"] = _flash_linear_attention(inputs, learning=learning)
            _pass(*found["fla"])
        except Exception as error:  # Triton's are of many kinds; the others are timed without it
            found.pop("fla", None)
            print(f"flash-linear-attention does not run here: {error!r:.200}", flush=True)
    return found


def _of_one_decay(
    inputs: dict[str, Any], fused: str, *, learning: bool
) -> tuple[Callable[[], Any], list[Tensor]]:
    """``fast_weight`` on the same inputs, with the first channel's decay for the whole matrix."""
    given = {name: x for name, x in inputs.items() if name != "erase"}
    given["log_decay"] = given["log_decay"].detach()[..., 0].contiguous()
    leaves = leaves_of(given) if learning else []
    return partial(OPS["fast_weight"].run, **given, backend=fused), leaves


def _pass(forward: Callable[[], Any], leaves: list[Tensor]) -> object:
    """Forward and, where there are leaves, backward from every result."""
    results = flat(forward())
    if not leaves:
        return results
    return torch.autograd.grad(results, leaves, [torch.ones_like(x) for x in results])


def _flash_linear_attention(
    inputs: dict[str, Any], *, learning: bool
) -> tuple[Callable[[], Any], list[Tensor]]:
    from fla.ops.delta_rule import fused_recurrent_delta_rule  # type: ignore[import-not-found]

    q, k, v, beta = (
        inputs[name].detach().transpose(0, 1).contiguous() for name in ("q", "k", "v", "beta")
    )
    leaves = [q, k, v, beta, inputs["state"].detach().mT.contiguous()]
    for x in leaves:
        x.requires_grad_(learning)
    forward = partial(
        fused_recurrent_delta_rule,
        *(q, k, v, beta),
        scale=1.0,
        initial_state=leaves[-1],
        output_final_state=True,
    )
    return forward, leaves if learning else []


def product(device: str) -> tuple[Callable[[], object], int]:
    """A large float32 matrix product, and its number of operations."""
    n = 1024 if device == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device) for _ in range(2))
    return lambda: torch.mm(a, b), 2 * n**3


def copy(device: str) -> tuple[Callable[[], object], int]:
    """A copy of more than any cache holds, and the bytes that it reads and writes."""
    source = torch.ones(2**25 if device == "cpu" else 2**28, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * source.nbytes


def moved_bytes(op: Op, inputs: dict[str, Any], *, learning: bool) -> int:
    """What the passes read and write at the least: inputs and results, and backward the inputs once
    more, the gradients of the results and those of the inputs."""
    with torch.no_grad():
        results = sum(x.nbytes for x in flat(op.run(**inputs)))
    given = sum(x.nbytes for x in flat(inputs))
    return 3 * given + 2 * results if learning else given + results


def seconds_of(run: Callable[[], object], repeats: int, device: str = "cpu") -> float:
    """Of one call, in the mean over ``repeats``, after one that brings caches and threads over from
    the contender before."""
    synchronize: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    run()
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronize()
    return (time.perf_counter() - start) / repeats
