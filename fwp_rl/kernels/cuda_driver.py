"""Launches compiled kernels through the CUDA driver, on torch's current stream.

A kernel's one argument is a struct of pointers and 64-bit integers, so a launch packs a list of
integers and makes three calls of the driver. Kernels are loaded once per device. A launch can be
captured into a CUDA graph, but loading cannot: call the op once before.
"""

import ctypes
import threading
from array import array
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from fwp_rl.kernels.errors import BackendError
from fwp_rl.kernels.nvrtc import SCALARS, Kernel, architectures, cubin, nvrtc_version

__all__ = [
    "check_available",
    "contiguous",
    "copy_rooms",
    "driver",
    "launch",
    "refusal",
    "rooms",
    "sum_columns",
]

# Names and values of cuda.h.
CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76
CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97
CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8

_functions: dict[tuple[Kernel, torch.dtype, int], tuple[ctypes.c_void_p, ctypes.c_void_p]] = {}
_loading = threading.Lock()


def launch(
    kernel: Kernel, like: Tensor, blocks: int, arguments: Sequence[Tensor | int | None]
) -> None:
    """Start a kernel on the device of ``like``, whose dtype is that of its inputs and outputs.

    arguments  the fields of the kernel's struct in their order: contiguous tensors, None for a
               null pointer, integers
    """
    device = like.device.index or 0
    stream = _current_stream(device)
    loaded = _functions.get((kernel, like.dtype, device))
    context, function = loaded or _load(kernel, like.dtype, device, stream)
    packed = array(
        "q", [x if isinstance(x, int) else 0 if x is None else x.data_ptr() for x in arguments]
    )
    struct = (ctypes.c_void_p * 1)(packed.buffer_info()[0])
    cuda = driver()
    _check(cuda.cuCtxPushCurrent_v2(context), "cuCtxPushCurrent")
    try:
        status = cuda.cuLaunchKernel(
            function, blocks, 1, 1, kernel.threads, 1, 1, 4 * kernel.shared, stream, struct, None
        )
    finally:
        cuda.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    _check(status, f"launching {kernel.name}")


def contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    """What a kernel is given of tensors: null for one that is None or empty."""
    return [None if x is None or x.numel() == 0 else x.contiguous() for x in tensors]


def rooms(dtype: torch.dtype, tensors: Sequence[Tensor]) -> list[Tensor]:
    """What a kernel fills that computes in a dtype: the tensors themselves where they are of that
    dtype, else room for ``copy_rooms`` to take from."""
    return [x if x.dtype == dtype else torch.empty_like(x, dtype=dtype) for x in tensors]


def copy_rooms(filled: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Fill the tensors for which ``rooms`` has made room."""
    for room, x in zip(filled, tensors, strict=True):
        if room is not x:
            x.copy_(room)


def sum_columns(parts: Sequence[Tensor], totals: Sequence[Tensor]) -> None:
    """Fill the gradients of slow weights, sums over the columns, the first axis of each part."""
    for part, total in zip(parts, totals, strict=True):
        if part.dtype == total.dtype:
            torch.sum(part, 0, out=total)
        else:
            total.copy_(part.sum(0))


def check_available() -> None:
    """Raise BackendError, which says why, where kernels can be neither compiled nor launched."""
    driver()
    nvrtc_version()


@cache
def refusal(kernels: tuple[Kernel, ...], device: int) -> str:
    """Why a device cannot run kernels; empty when it can: NVRTC does not compile for it, or it has
    less shared memory a block than one of them needs."""
    major, minor, limit = _device(device)
    known = architectures()
    if 10 * major + minor not in known:
        return (
            f"is compiled by NVRTC {nvrtc_version()} for sm_{known[0]} to sm_{known[-1]}, "
            f"this GPU is an sm_{major}{minor}"
        )
    needed = max(4 * kernel.shared for kernel in kernels)
    if needed > limit:
        return f"needs {needed:,} bytes of shared memory a block, this GPU has {limit:,}"
    return ""


@cache
def driver() -> ctypes.CDLL:
    """The driver's library, started. Raises BackendError where there is none."""
    name = _driver_library()
    try:
        cuda = ctypes.CDLL(name)
    except OSError as error:
        raise BackendError(f"the CUDA driver cannot be loaded: {error}") from None
    pointer, unsigned = ctypes.c_void_p, ctypes.c_uint
    cuda.cuCtxPushCurrent_v2.argtypes = [pointer]
    cuda.cuLaunchKernel.argtypes = [pointer, *[unsigned] * 7, pointer, pointer, pointer]
    cuda.cuStreamIsCapturing.argtypes = [pointer, pointer]
    cuda.cuModuleGetFunction.argtypes = [pointer, pointer, ctypes.c_char_p]
    cuda.cuFuncSetAttribute.argtypes = [pointer, ctypes.c_int, ctypes.c_int]
    status = cuda.cuInit(0)
    if status:
        raise BackendError(f"the CUDA driver does not start (cuInit gives {status})")
    return cuda


def _driver_library() -> str:
    return "libcuda.so.1"


def _current_stream(device: int) -> int:
    """Address of torch's current stream, without the object that torch.cuda makes around it."""
    return torch._C._cuda_getCurrentRawStream(device)


def _load(
    kernel: Kernel, dtype: torch.dtype, device: int, stream: int
) -> tuple[ctypes.c_void_p, ctypes.c_void_p]:
    """Compile or read a kernel, load it on a device: the device's context, the function."""
    # A thread that torch made, autograd's for one, has no current context before its first call of
    # the CUDA runtime, and without one the driver knows no stream: the context comes first.
    cuda, context = driver(), ctypes.c_void_p()
    _check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "cuDevicePrimaryCtxRetain")
    _check(cuda.cuCtxPushCurrent_v2(context), "cuCtxPushCurrent")
    try:
        _refuse_capture(kernel, stream)
        with _loading:
            if (kernel, dtype, device) not in _functions:
                function = _load_anew(kernel, SCALARS[dtype], device)
                _functions[kernel, dtype, device] = context, function
            return _functions[kernel, dtype, device]
    finally:
        cuda.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _refuse_capture(kernel: Kernel, stream: int) -> None:
    capturing = ctypes.c_int()
    _check(driver().cuStreamIsCapturing(stream, ctypes.byref(capturing)), "cuStreamIsCapturing")
    if capturing.value:
        raise BackendError(
            f"{kernel.name} is used for the first time while a CUDA graph is captured, and cannot "
            "be loaded then; call the op once with these sizes before the capture"
        )


def _load_anew(kernel: Kernel, scalar: str, device: int) -> ctypes.c_void_p:
    cuda = driver()
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    major, minor, _ = _device(device)
    if reason := refusal((kernel,), device):
        raise BackendError(f"{kernel.expression(scalar)} {reason}")
    made = cubin(kernel, scalar, f"sm_{major}{minor}")
    _check(cuda.cuModuleLoadData(ctypes.byref(module), made.code), f"loading {kernel.name}")
    _check(
        cuda.cuModuleGetFunction(ctypes.byref(function), module, made.symbol.encode()),
        f"finding {kernel.name}",
    )
    _check(
        cuda.cuFuncSetAttribute(
            function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 4 * kernel.shared
        ),
        f"shared memory for {kernel.name}",
    )
    return function


def _device(device: int) -> tuple[int, int, int]:
    """Compute capability, and the bytes of shared memory that a block can have."""
    return (
        _attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device),
        _attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device),
        _attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device),
    )


def _attribute(attribute: int, device: int) -> int:
    value = ctypes.c_int()
    status = driver().cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    _check(status, "cuDeviceGetAttribute")
    return value.value


def _check(status: int, what: str) -> None:
    if status:
        name = ctypes.c_char_p()
        driver().cuGetErrorName(status, ctypes.byref(name))
        given = name.value.decode() if name.value else f"error {status}"
        raise BackendError(f"CUDA driver: {what}: {given}")
