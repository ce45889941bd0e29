"""How numba kernels are compiled and entered: one cache, one thread count, one lock.

Importing this module imports numba, which takes a while: only the numba backends do.
"""

import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

__all__ = [
    "addresses",
    "array_at",
    "compiled",
    "compiled_parallel",
    "contiguous",
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
    try:
        return numba.njit(kernel, cache=True, **options)  # type: ignore[no-any-return]
    except RuntimeError as error:  # neither the package nor the user's cache folder is writable
        warnings.warn(
            f"numba kernels will be compiled anew in every process ({error}); "
            "point NUMBA_CACHE_DIR at a writable folder",
            stacklevel=3,
        )
        return numba.njit(kernel, **options)  # type: ignore[no-any-return]


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
