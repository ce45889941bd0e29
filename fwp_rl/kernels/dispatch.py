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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from fwp_rl.kernels.errors import BackendError
from fwp_rl.registry import suggestion

__all__ = [
    "BACKENDS",
    "BackendError",
    "BackendStatus",
    "backend_status",
    "choose_backend",
    "numba_threading_layer",
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
