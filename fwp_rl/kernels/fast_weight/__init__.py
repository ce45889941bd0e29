"""One fast weight matrix per head: written by the sum or the delta rule, then read.

    W <- 0                          where reset
    W <- exp(log_decay) W           if given
    W <- W + beta v k^T             rule "sum":   Linear Transformers (Katharopoulos et al., 2020)
    W <- W + beta (v - W k) k^T     rule "delta": DeltaNet (Schlag et al., 2021)
    y  = W q

With decay, the delta rule is that of Gated DeltaNet (Yang et al., 2024). Keys and queries arrive
with their feature map and normalisation applied, beta between 0 and 1: the op is one equation.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fwp_rl.kernels.dispatch import LIBRARY, choose_backend
from fwp_rl.kernels.fast_weight.chunkwise import fast_weight_chunkwise
from fwp_rl.kernels.fast_weight.reference import fast_weight_reference
from fwp_rl.registry import suggestion

__all__ = ["fast_weight"]

RULES = ("delta", "sum")
HALF = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, torch.float64, *HALF)


def fast_weight(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    state: Tensor,
    *,
    log_decay: Tensor | None = None,
    reset: Tensor | None = None,
    rule: str = "delta",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run T steps of a fast weight memory, with exact gradients for every input.

    q, k       [T, B, H, K]
    v          [T, B, H, V]
    beta       [T, B, H]     write strength; None, for the sum rule only, means 1
    state      [B, H, V, K]  W before step 0; not changed, not aliased by the result
    log_decay  [T, B, H]     log of what W is multiplied by before each write; None means 0
    reset      [T, B] bool   W is zeroed *before* step t; None means never
    rule       "delta" or "sum"
    backend    "auto", "reference", "chunkwise", "numba", "cuda"; see ``fwp_rl.kernels.dispatch``
    returns    y [T, B, H, V] and W after the last step [B, H, V, K], of the inputs' dtype

    All float tensors have one dtype: float32, float64, float16 or bfloat16; the last two are
    computed in float32, except by the reference. Under autocast, inputs of any float types are
    cast to float32 and the results are float32. Gradients of gradients: reference and chunkwise
    only. Raises TypeError, ValueError or BackendError, in one line.
    """
    autocast = isinstance(q, Tensor) and _under_autocast(q.device.type)
    _check(q, k, v, beta, state, log_decay, reset, rule, one_dtype=not autocast)
    name = choose_backend("fast_weight", TABLE, q.device.type, backend)
    run = TABLE[name]
    if autocast:
        with torch.autocast(q.device.type, enabled=False):
            return run(*_in_float32(q, k, v, beta, state, log_decay), reset, rule)
    if q.dtype in HALF and name != "reference":
        y, new_state = run(*_in_float32(q, k, v, beta, state, log_decay), reset, rule)
        return y.to(q.dtype), new_state.to(q.dtype)
    return run(q, k, v, beta, state, log_decay, reset, rule)


def _under_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _in_float32(*inputs: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if x is None else x.float() for x in inputs)


def _check(
    q: Any,
    k: Any,
    v: Any,
    beta: Any,
    state: Any,
    log_decay: Any,
    reset: Any,
    rule: str,
    *,
    one_dtype: bool,
) -> None:
    """Raise TypeError or ValueError unless the arguments are what ``fast_weight`` describes."""
    if rule not in RULES:
        hint = suggestion(str(rule), RULES)
        raise ValueError(f"unknown rule {rule!r}. {hint + ' ' if hint else ''}Known: delta, sum")
    for name, x, letters in (("q", q, "[T, B, H, K]"), ("v", v, "[T, B, H, V]")):
        _check_tensor(name, x, letters)
        if x.ndim != 4 or 0 in x.shape:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, expected {letters} with all sizes >= 1"
            )
        if x.dtype not in FLOATS:
            raise TypeError(
                f"{name} has dtype {x.dtype}, expected one of {', '.join(map(str, FLOATS))}"
            )
    T, B, H, K = q.shape
    V = v.shape[3]
    if beta is None and rule == "delta":
        raise ValueError('beta is None, expected a tensor [T, B, H]; only rule="sum" goes without')
    for name, x, letters, shape in (
        ("k", k, "[T, B, H, K]", (T, B, H, K)),
        ("v", v, "[T, B, H, V]", (T, B, H, V)),
        ("beta", beta, "[T, B, H]", (T, B, H)),
        ("state", state, "[B, H, V, K]", (B, H, V, K)),
        ("log_decay", log_decay, "[T, B, H]", (T, B, H)),
        ("reset", reset, "[T, B]", (T, B)),
    ):
        if x is None and name in ("beta", "log_decay", "reset"):
            continue
        _check_tensor(name, x, letters)
        if x.shape != shape:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, expected {letters} = {tuple(shape)}"
            )
        if x.device != q.device:
            raise ValueError(f"{name} is on {x.device}, expected {q.device}, where q is")
        if name == "reset":
            if x.dtype != torch.bool:
                raise TypeError(f"reset has dtype {x.dtype}, expected torch.bool")
        elif x.dtype != q.dtype if one_dtype else x.dtype not in FLOATS:
            raise TypeError(f"{name} has dtype {x.dtype}, expected {q.dtype}, as q has")


def _check_tensor(name: str, x: Any, letters: str) -> None:
    if not isinstance(x, Tensor):
        given = "None" if x is None else f"of type {type(x).__name__}"
        raise TypeError(f"{name} is {given}, expected a tensor {letters}")


def _fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    state: Tensor,
    log_decay: Tensor | None,
    reset: Tensor | None,
    rule: str,
) -> tuple[Tensor, Tensor]:
    y, new_state, _ = torch.ops.fwp_rl.fast_weight.default(
        q, k, v, beta, state, log_decay, reset, rule == "delta"
    )
    return y, new_state


TABLE: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "reference": fast_weight_reference,
    "chunkwise": fast_weight_chunkwise,
    "numba": _fused,
    "cuda": _fused,
}

INPUTS = (
    "Tensor q, Tensor k, Tensor v, Tensor? beta, Tensor state, Tensor? log_decay, Tensor? reset, "
    "bool delta"
)
SCHEMAS = (
    f"fast_weight({INPUTS}) -> (Tensor y, Tensor state, Tensor u)",
    f"fast_weight_backward({INPUTS}, Tensor u, Tensor dy, Tensor dstate) -> "
    "(Tensor dq, Tensor dk, Tensor dv, Tensor dbeta, Tensor dinitial, Tensor dlog_decay)",
)
for schema in SCHEMAS:
    LIBRARY.define(schema)


def _cpu_forward(*args: Any) -> Any:
    from fwp_rl.kernels.fast_weight.numba_cpu import forward

    return forward(*args)


def _cpu_backward(*args: Any) -> Any:
    from fwp_rl.kernels.fast_weight.numba_cpu import backward

    return backward(*args)


def _fake_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    state: Tensor,
    log_decay: Tensor | None,
    reset: Tensor | None,
    delta: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    y, u = v.new_empty(v.shape), v.new_empty(v.shape if delta else (0, 0, 0, 0))
    return y, state.new_empty(state.shape), u


def _fake_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    state: Tensor,
    log_decay: Tensor | None,
    *_: Any,
) -> tuple[Tensor, ...]:
    steps = q.shape[:3]
    sizes = (
        q.shape,
        q.shape,
        v.shape,
        steps,
        state.shape,
        (0,) * 3 if log_decay is None else steps,
    )
    return tuple(q.new_empty(size) for size in sizes)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.delta = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.mark_non_differentiable(output[2])


def _autograd_backward(ctx: Any, dy: Tensor, dstate: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    *inputs, u = ctx.saved_tensors
    dq, dk, dv, dbeta, dinitial, dlog_decay = torch.ops.fwp_rl.fast_weight_backward.default(
        *inputs, ctx.delta, u, dy, dstate
    )
    beta, log_decay = inputs[3], inputs[5]
    return (
        dq,
        dk,
        dv,
        None if beta is None else dbeta,
        dinitial,
        None if log_decay is None else dlog_decay,
        None,
        None,
    )


LIBRARY.impl("fast_weight", _cpu_forward, "CPU")
LIBRARY.impl("fast_weight_backward", _cpu_backward, "CPU")
torch.library.register_fake("fwp_rl::fast_weight", _fake_forward, lib=LIBRARY)
torch.library.register_fake("fwp_rl::fast_weight_backward", _fake_backward, lib=LIBRARY)
torch.library.register_autograd(
    "fwp_rl::fast_weight", _autograd_backward, setup_context=_save_for_backward, lib=LIBRARY
)
