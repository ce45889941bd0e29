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
from numba.extending import intrinsic

from fwp_rl.kernels.inputs import Tensors
from fwp_rl.kernels.numba_cache import cached_njit

__all__ = [
    "array_at",
    "compiled",
    "compiled_parallel",
    "inlined",
    "launch",
    "part",
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


def inlined(kernel: Kernel) -> Kernel:
    """A part of kernels, inlined wherever it is called, and kept with them.

    Left to itself LLVM makes some calls functions of their own, under one name. The process that
    compiles links the first copy that it has made into all kernels, a process that reads them from
    the cache finds a copy in each: sums in another order, other bits.
    """
    return _njit(kernel, cached=False, inline=True)


def part(kernel: Kernel) -> Kernel:
    """A part of kernels that stays a function of its own, and is kept with them: what moves numbers
    without adding any, and what is too long to stand in a kernel twice."""
    return _njit(kernel, cached=False)


def compiled_parallel(kernel: Kernel) -> Kernel:
    """``compiled``, with ``numba.prange`` run by numba's threads. Enter it through ``launch``."""
    return _njit(kernel, parallel=True)


def _njit(
    kernel: Kernel, *, parallel: bool = False, cached: bool = True, inline: bool = False
) -> Kernel:
    options: dict[str, Any] = {
        "parallel": parallel,
        "nogil": True,
        "forceinline": inline,
        "fastmath": _FASTMATH,
        "error_model": "numpy",
    }
    if not cached:
        return numba.njit(kernel, **options)  # type: ignore[no-any-return]
    return cached_njit(kernel, **options)  # type: ignore[no-any-return]


def launch(
    serial: Callable[..., None],
    parallel: Callable[..., None] | None,
    sizes: Sequence[int],
    reads: Sequence[Tensors],
    fills: Sequence[Tensors],
    *options: bool | int,
) -> None:
    """Run a kernel: serially for a single step, else on torch's number of threads, if it has a
    parallel form.

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
    if parallel is None or sizes[0] == 1 or threads == 1:
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


@inlined
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
    return _njit(made["views"], cached=False, inline=True)  # type: ignore[no-any-return]


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
