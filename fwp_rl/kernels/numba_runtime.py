"""How numba kernels are compiled and entered: one cache, one thread count, one lock.

Importing this module imports numba, which takes a while: only the numba backends do.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import torch
from numba import types
from numba.extending import intrinsic, overload
from torch import Tensor

from fwp_rl.kernels.numba_cache import cached_njit

__all__ = [
    "addresses",
    "array_at",
    "compiled",
    "compiled_parallel",
    "contiguous",
    "exp",
    "launch",
    "threading_layer",
]

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# Sums may be reordered and fused. NaN and infinity keep their meaning, so that a diverged run
# shows them instead of a plausible number.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

_parallel_lock = threading.Lock()


def compiled(kernel: Kernel) -> Kernel:
    """The function compiled by numba at its first call, in later processes read from its cache."""
    return _njit(kernel, parallel=False)


def compiled_parallel(kernel: Kernel) -> Kernel:
    """``compiled``, with ``numba.prange`` run by numba's threads. Enter it through ``launch``."""
    return _njit(kernel, parallel=True)


def _njit(kernel: Kernel, *, parallel: bool) -> Kernel:
    options: dict[str, Any] = {
        "parallel": parallel,
        "nogil": True,
        "fastmath": _FASTMATH,
        "error_model": "numpy",
    }
    return cached_njit(kernel, **options)  # type: ignore[no-any-return]


def launch(
    serial: Callable[..., None], parallel: Callable[..., None], steps: int, *args: Any
) -> None:
    """Run a kernel on ``args``: serially for a single step, else on torch's number of threads.

    Acting is one step, so only a learner enters the parallel kernel. The lock is for numba's
    fallback threading layer, workqueue, which aborts the process when two Python threads enter
    it at a time.
    """
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    if steps == 1 or threads == 1:
        serial(*args)
        return
    with _parallel_lock:
        numba.set_num_threads(threads)
        parallel(*args)


def contiguous(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors as they lie in memory, or copies where steps are skipped. Hold on to them while
    a kernel runs on their ``addresses``."""
    return tuple(None if x is None else x.contiguous() for x in tensors)


def addresses(*tensors: Tensor | None) -> tuple[int, ...]:
    """What a kernel is given of contiguous tensors, for its ``array_at``; 0 stands for None.

    ``Tensor.numpy`` would take a microsecond each, a tenth of the time of an acting step.
    """
    return tuple(0 if x is None else x.data_ptr() for x in tensors)


@intrinsic
def _pointer(_: Any, address: Any, like: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like)(address, like), generate  # type: ignore[no-untyped-call]


@compiled
def array_at(address: Any, shape: Any, like: Any) -> Any:
    """In a kernel: the array of a shape at an address, of numbers such as ``like``."""
    return numba.carray(_pointer(address, like), shape)  # type: ignore[attr-defined,call-arg]


def exp(x: Any) -> Any:
    """e^x. In a kernel float32 goes through arithmetic alone, so that a loop over it runs in
    vectors (numba calls libm number by number, several times as slow): within 4e-7 of the truth,
    relative; 0 below -87.7 and infinite above 88.4, NaN for NaN. float64 is numpy's.

    Cephes' expf: x = n ln 2 + r with |r| <= ln 2 / 2, e^r by a polynomial, 2^n by its bits.
    """
    return np.exp(x)


def _exp_float32(x: Any) -> Any:
    f, i = np.float32, np.int32
    if x == x:
        x = min(max(x, f(-88)), f(89))  # n = -127 and 128, whose bits are those of 0 and infinity
    n = np.floor(x * f(1.44269504) + f(0.5))
    r = x - n * f(0.693147182)
    p = f(1.9875691500e-4)
    p = p * r + f(1.3981999507e-3)
    p = p * r + f(8.3334519073e-3)
    p = p * r + f(4.1665795894e-2)
    p = p * r + f(1.6666665459e-1)
    p = p * r + f(5.0000001201e-1)
    return (p * r * r + r + f(1)) * i((i(n) + i(127)) << i(23)).view(f)


def _exp_float64(x: Any) -> Any:
    return np.exp(x)


@overload(exp, jit_options={"fastmath": {"contract"}, "error_model": "numpy"})
def _exp(x: Any) -> Any:
    return _exp_float32 if x == types.float32 else _exp_float64


def threading_layer() -> str:
    """Name of the layer that runs parallel kernels (tbb, omp or workqueue) in this process.

    numba chooses it when the first parallel kernel runs, so this runs one.
    """
    with _parallel_lock:
        _count(2)
    return str(numba.threading_layer())  # type: ignore[attr-defined]


@compiled_parallel
def _count(n: int) -> int:
    total = 0
    for _ in numba.prange(n):
        total += 1
    return total
