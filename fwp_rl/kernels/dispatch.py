"""Which backend runs an op, and why another one cannot.

    reference   plain torch, one step at a time: defines the truth; any device, any dtype
    chunkwise   torch, 32 steps at a time, where an op has such a form; any device
    numba       fused CPU kernels
    cuda        fused CUDA kernels

"auto" takes the fused kernel of the tensors' device, then chunkwise, then reference, and warns
once when it had to fall back. A backend that was asked for by name never falls back: it runs or
raises BackendError with the reason. Asked for means, the first that is set: the ``backend``
argument, ``use_backend``, the environment variable FWP_RL_KERNELS (read at every call). Code
under ``torch.compile`` keeps the backend that it was compiled with.
"""

import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fwp_rl.kernels.errors import BackendError
from fwp_rl.kernels.inputs import HALF, Arguments, check_arguments, is_state
from fwp_rl.registry import suggestion

__all__ = [
    "BACKENDS",
    "BackendError",
    "BackendStatus",
    "backend_status",
    "choose_backend",
    "numba_threading_layer",
    "run_op",
    "use_backend",
]

BACKENDS = ("reference", "chunkwise", "numba", "cuda")

ENVIRONMENT_VARIABLE = "FWP_RL_KERNELS"

Backends = Mapping[str, Callable[..., tuple[Tensor, ...]]]
"""Backend → an op's function on it, with an entry for each backend that the op has."""

_FUSED = {"cpu": "numba", "cuda": "cuda"}

_override: str | None = None


class BackendStatus(NamedTuple):
    """Whether a backend can run on this machine and, where it cannot, the reason."""

    available: bool
    reason: str = ""


def backend_status() -> dict[str, BackendStatus]:
    """Backend → whether it can run on this machine, and why not."""
    return {name: _status(name) for name in BACKENDS}


def numba_threading_layer() -> str | None:
    """Name of numba's threading layer in this process, None without numba.

    Starts numba's threads, and compiles a tiny kernel the first time.
    """
    if not _status("numba").available:
        return None
    from fwp_rl.kernels.numba_runtime import threading_layer

    return threading_layer()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op of this process, in all its threads, on one backend: ``with
    use_backend("reference"): ...``. ``"auto"`` lifts an outer choice and FWP_RL_KERNELS."""
    global _override
    before, _override = _override, _known(name, "use_backend")
    try:
        yield
    finally:
        _override = before


def run_op(
    op: str,
    table: Backends,
    arguments: Arguments,
    *options: Any,
    optional: Collection[str] = (),
    cuda_limits: Mapping[str, int],
    backend: str,
) -> tuple[Tensor, ...]:
    """Check an op's arguments and run it: ``table[backend](*tensors, *options)``.

    arguments    name → (tensor, sizes) in the order in which the backends take them; see
                 ``check_arguments``
    options      what the backends take after the tensors
    optional     names of arguments that may be None
    cuda_limits  letter → the largest size that the CUDA kernel takes
    backend      the caller's wish
    returns      y, of the first tensor's dtype, and the parts of the state after, in the order and
                 of the dtypes of those before

    float16 and bfloat16 are computed in float32 and returned as they came, except by the
    reference, which computes in them if all is of one dtype, and by CUDA kernels, which read and
    write bfloat16 themselves beside a float32 state. Under autocast, inputs of any float types
    are cast to float32, and so are the results.
    """
    tensors = [x for x, _ in arguments.values()]
    device = tensors[0].device.type if isinstance(tensors[0], Tensor) else ""
    autocast = bool(device) and _under_autocast(device)
    sizes = check_arguments(arguments, optional=optional, one_dtype=not autocast)
    dtype = torch.float32 if autocast else tensors[0].dtype
    refusal = _cuda_refusal(sizes, cuda_limits, dtype) if device == "cuda" else ""
    name = choose_backend(op, table, device, backend, refusal=refusal)
    run = table[name]
    if autocast:
        with torch.autocast(device, enabled=False):
            return run(*map(_in_float32, tensors), *options)
    if dtype not in HALF:
        return run(*tensors, *options)
    states = [x.dtype for x, sizes in arguments.values() if is_state(sizes)]
    if name == "reference" and set(states) == {dtype}:
        return run(*tensors, *options)
    keep_inputs = name == "cuda" and dtype == torch.bfloat16
    tensors = [
        x if keep_inputs and not is_state(sizes) else _in_float32(x)
        for x, sizes in arguments.values()
    ]
    results = run(*tensors, *options)
    return tuple(x.to(kind) for x, kind in zip(results, (dtype, *states), strict=True))


def _under_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _in_float32(x: Tensor | None) -> Tensor | None:
    return x if x is None or not x.is_floating_point() else x.float()


def _cuda_refusal(sizes: Mapping[str, int], limits: Mapping[str, int], dtype: torch.dtype) -> str:
    """Why the CUDA kernel of an op does not take what is given; empty when it does."""
    if dtype == torch.float64:
        return "computes in float32, the inputs are float64"
    for letter, limit in limits.items():
        if sizes[letter] > limit:
            return f"takes {letter} up to {limit}, the inputs have {sizes[letter]}"
    return ""


def choose_backend(
    op: str, table: Backends, device: str, backend: str = "auto", *, refusal: str = ""
) -> str:
    """The name of the backend that runs ``op`` on tensors of a device type.

    backend  the caller's wish; "auto" leaves it to use_backend, FWP_RL_KERNELS, then to the device
    refusal  why the fused kernel of the device does not take these inputs, where it does not

    Raises BackendError when a backend asked for by name cannot run, or is none.
    """
    name, source = _asked_for(backend)
    fused = _FUSED.get(device)
    if name != "auto":
        reason = _why_not(op, table, device, name) or (refusal if name == fused else "")
        if reason:
            raise BackendError(f"{op}: backend {name!r} (from {source}) {reason}")
        return name
    reason = _why_not(op, table, device, fused) or refusal if fused else ""
    if fused and not reason:
        return fused
    fallback = "chunkwise" if "chunkwise" in table else "reference"
    if reason:
        _warn_once(f"{op}: backend {fused!r} {reason}; taking {fallback!r}, which is slower")
    return fallback


# What torch.compiler.assume_constant_result does, without its import of the compiler, which every
# process would wait for: torch.compile calls the function once, while it traces.
choose_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _asked_for(backend: str) -> tuple[str, str]:
    """A backend's name, and where it was asked for."""
    if backend != "auto":
        return _known(backend, "backend"), "backend="
    if _override is not None:
        return _override, "use_backend"
    name = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    return _known(name, ENVIRONMENT_VARIABLE), ENVIRONMENT_VARIABLE


def _known(name: str, source: str) -> str:
    if name not in (*BACKENDS, "auto"):
        hint = suggestion(name, BACKENDS)
        raise BackendError(
            f"{source}: unknown backend {name!r}. {hint + ' ' if hint else ''}"
            f"Known: auto, {', '.join(BACKENDS)}"
        )
    return name


def _why_not(op: str, table: Backends, device: str, backend: str) -> str:
    """Why a backend cannot run an op on a device; empty when it can."""
    status = _status(backend)
    if not status.available:
        return f"is not available: {status.reason}"
    if backend not in table:
        return f"is not available: {op} has no such kernel"
    if backend in _FUSED.values() and _FUSED.get(device) != backend:
        home = next(kind for kind, fused in _FUSED.items() if fused == backend)
        return f"runs on {home} tensors, these are on {device}"
    return ""


@cache
def _status(backend: str) -> BackendStatus:
    if backend == "numba":
        try:
            import numba  # noqa: F401
        except ImportError as error:
            return BackendStatus(False, f"numba cannot be imported ({error})")
    if backend == "cuda":
        if not torch.cuda.is_available():
            return BackendStatus(False, "torch finds no CUDA device")
        from fwp_rl.kernels.cuda_driver import check_available

        try:
            check_available()
        except BackendError as error:
            return BackendStatus(False, str(error))
    return BackendStatus(True)


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)
