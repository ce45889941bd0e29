"""How numba kernels are compiled and entered: one cache, one thread count, one lock.

Importing this module imports numba, which takes a while: only the numba backends do.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numba
import numpy as np
import torch
from numba import types
from numba.extending import intrinsic, overload

from fwp_rl.kernels.inputs import Tensors
from fwp_rl.kernels.numba_cache import cached_njit

__all__ = [
    "array_at",
    "compiled",
    "compiled_parallel",
    "exp",
    "launch",
    "threading_layer",
    "views",
]

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# Sums may be reordered and fused. NaN and infinity keep their meaning, so that a diverged run
# shows them instead of a plausible number.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

_ZEROS = {torch.float32: np.float32(0), torch.float64: np.float64(0)}

_parallel_lock = threading.Lock()


def compiled(kernel: Kernel) -> Kernel:
    """The function compiled by numba at its first call, in later processes read from its cache."""
    return _njit(kernel)


def compiled_parallel(kernel: Kernel) -> Kernel:
    """``compiled``, with ``numba.prange`` run by numba's threads. Enter it through ``launch``."""
    return _njit(kernel, parallel=True)


def _njit(kernel: Kernel, *, parallel: bool = False, cached: bool = True) -> Kernel:
    options: dict[str, Any] = {
        "parallel": parallel,
        "nogil": True,
        "fastmath": _FASTMATH,
        "error_model": "numpy",
    }
    if not cached:
        return numba.njit(kernel, **options)  # type: ignore[no-any-return]
    return cached_njit(kernel, **options)  # type: ignore[no-any-return]


def launch(
    serial: Callable[..., None],
    parallel: Callable[..., None],
    sizes: Sequence[int],
    reads: Sequence[Tensors],
    fills: Sequence[Tensors],
    *options: bool,
) -> None:
    """Run a kernel: serially for a single step, else on torch's number of threads.

    sizes  steps first
    reads  groups of tensors, or None, in any layout; the first is a tensor, of the type of all
    fills  groups of contiguous tensors

    A kernel is given a zero of the tensors' type, the sizes, of each group the addresses for its
    ``views``, and the options. Arrays would take a microsecond each, a tenth of the time of an
    acting step.

    Acting is one step, so only a learner enters the parallel kernel. The lock is for numba's
    fallback threading layer, workqueue, which aborts the process when two Python threads enter
    it at a time.
    """
    held = [[None if x is None else x.contiguous() for x in group] for group in reads]
    arguments = (
        _ZEROS[reads[0][0].dtype],
        sizes,
        *[_addresses(group) for group in held],
        *[_addresses(group) for group in fills],
        *options,
    )
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    if sizes[0] == 1 or threads == 1:
        serial(*arguments)
        return
    with _parallel_lock:
        numba.set_num_threads(threads)
        parallel(*arguments)


def _addresses(tensors: Tensors) -> tuple[int, ...]:
    return tuple([0 if x is None else x.data_ptr() for x in tensors])


@intrinsic
def _pointer(_: Any, address: Any, like: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like)(address, like), generate  # type: ignore[no-untyped-call]


@compiled
def array_at(address: Any, shape: Any, like: Any) -> Any:
    """In a kernel: the array of a shape at an address, of numbers such as ``like``."""
    return numba.carray(_pointer(address, like), shape)  # type: ignore[attr-defined,call-arg]


def views(axes: Iterable[str], *groups: Mapping[str, str]) -> Callable[..., Any]:
    """For kernels: a function of what ``launch`` gives them, a zero, sizes and the addresses of a
    group of tensors, whose result are the tensors as arrays.

    axes    letters of the sizes
    groups  name → sizes as in the description of an op, in the order of the addresses; a size may
            be a formula. What is marked by "?" may be None or empty, and is empty then; "reset" is
            of bool
    """
    arrays = []
    for n, (name, sizes) in enumerate(pair for group in groups for pair in group.items()):
        first, *others = sizes.removeprefix("?").split()
        if sizes.startswith("?"):
            first = f"{first} if where[{n}] else 0"
        shape = f"({', '.join([first, *others])})"
        arrays.append(f"array_at(where[{n}], {shape}, {'False' if name == 'reset' else 'zero'})")
    source = f"""
def views(zero, sizes, where):
    {", ".join(axes)} = sizes
    return {", ".join(arrays)}
"""
    made: dict[str, Any] = {"array_at": array_at}
    exec(source, made)
    return _njit(made["views"], cached=False)  # type: ignore[no-any-return]


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
