"""CUDA kernels from their text in cuda/: compiled by NVRTC at first use, then read from disk.

NVRTC comes with torch's CUDA wheels, so neither nvcc nor a host compiler is needed. What it makes
is machine code for one compute capability (a cubin), which needs no compiler in the driver. It is
kept in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``) under a hash of the sources,
the kernel, the compute capability and NVRTC's version. Compiling needs no GPU.
"""

import ctypes
import hashlib
import importlib.util
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from fwp_rl.kernels.errors import BackendError
from fwp_rl.resources import cuda_dir, user_cache

__all__ = [
    "Cubin",
    "Kernel",
    "SCALARS",
    "architectures",
    "compile_kernel",
    "cubin",
    "nvrtc_version",
    "sources",
]

SCALARS = {torch.float32: "float", torch.bfloat16: "bf16"}
"""Type of a kernel's inputs and outputs → its name in the sources."""

OPTIONS = ("--std=c++17", "--ptxas-options=-v")


class Kernel(NamedTuple):
    """One kernel and its block: ``name<scalar, *template>`` of a source file.

    source    file in cuda/
    template  template arguments after the scalar type
    threads   of a block: whole warps
    shared    shared memory of a block, in numbers of the type that the kernel computes in
    """

    source: str
    name: str
    template: tuple[int, ...]
    threads: int
    shared: int = 0

    def expression(self, scalar: str) -> str:
        """The kernel as C++ names it."""
        return f"{self.name}<{', '.join((scalar, *map(str, self.template)))}>"


class Cubin(NamedTuple):
    """A compiled kernel: its name in the machine code, the code, the compiler's report."""

    symbol: str
    code: bytes
    log: str = ""


def cubin(kernel: Kernel, scalar: str, architecture: str) -> Cubin:
    """A kernel for an architecture such as "sm_90": from the user's cache, else compiled into it.

    A file that cannot be read or is damaged is compiled anew; where none can be written, a
    warning says so once.
    """
    path = _cache_file(kernel, scalar, architecture)
    kept = _read(path)
    if kept is None:
        kept = compile_kernel(kernel, scalar, architecture)
        try:
            _write(path, kept)
        except OSError as error:
            _warn_once(
                f"CUDA kernels will be compiled anew in every process: {error}; "
                "point XDG_CACHE_HOME at a writable folder"
            )
    return kept


def compile_kernel(kernel: Kernel, scalar: str, architecture: str) -> Cubin:
    """Compile a kernel, without the cache. Raises BackendError with the compiler's own words."""
    nvrtc = _library()
    source, *headers = sources(kernel.source)
    texts = [_text(header).encode() for header in headers]
    program = ctypes.c_void_p()
    _check(
        nvrtc.nvrtcCreateProgram(
            ctypes.byref(program),
            _text(source).encode(),
            source.encode(),
            len(headers),
            (ctypes.c_char_p * len(headers))(*texts),
            (ctypes.c_char_p * len(headers))(*[header.encode() for header in headers]),
        )
    )
    try:
        expression = kernel.expression(scalar).encode()
        _check(nvrtc.nvrtcAddNameExpression(program, expression))
        options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={architecture}")]
        status = nvrtc.nvrtcCompileProgram(
            program, len(options), (ctypes.c_char_p * len(options))(*options)
        )
        log = _output(program, "ProgramLog").rstrip(b"\0").decode(errors="replace").strip()
        if status:
            raise BackendError(
                f"NVRTC {nvrtc_version()} cannot compile {expression.decode()} of {kernel.source} "
                f"for {architecture}: {log or nvrtc.nvrtcGetErrorString(status).decode()}"
            )
        symbol = ctypes.c_char_p()
        _check(nvrtc.nvrtcGetLoweredName(program, expression, ctypes.byref(symbol)))
        assert symbol.value is not None
        return Cubin(symbol.value.decode(), _output(program, "CUBIN"), log)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def nvrtc_version() -> str:
    """Version of NVRTC, such as "13.0". Raises BackendError where there is none."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(_library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"{major.value}.{minor.value}"


@cache
def architectures() -> tuple[int, ...]:
    """What NVRTC compiles for, oldest first: 90 stands for "sm_90". Raises BackendError where there
    is no NVRTC."""
    count = ctypes.c_int()
    _check(_library().nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    numbers = (ctypes.c_int * count.value)()
    _check(_library().nvrtcGetSupportedArchs(numbers))
    return tuple(sorted(numbers))


@cache
def _library() -> ctypes.CDLL:
    tried = list(_candidates())
    for candidate in tried:
        try:
            library = ctypes.CDLL(candidate)
        except OSError:
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return library
    raise BackendError(
        f"NVRTC, which compiles the CUDA kernels, is not found (looked for {', '.join(tried)}); "
        "it comes with torch's CUDA wheels, or as the package nvidia-cuda-nvrtc"
    )


def _candidates() -> Iterator[str]:
    """Where NVRTC may be, torch's own CUDA version first."""
    version = torch.version.cuda
    for major in [version.partition(".")[0]] if version else ["13", "12"]:
        name = f"libnvrtc.so.{major}"
        spec = importlib.util.find_spec("nvidia")
        for root in spec.submodule_search_locations or () if spec else ():
            for folder in (f"cu{major}", "cuda_nvrtc"):
                if (path := Path(root, folder, "lib", name)).exists():
                    yield str(path)
        yield name  # loaded already, or where the system's loader looks
        yield str(Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "lib64", name))


def _check(status: int) -> None:
    if status:
        raise BackendError(f"NVRTC failed: {_library().nvrtcGetErrorString(status).decode()}")


def _output(program: ctypes.c_void_p, what: str) -> bytes:
    nvrtc, size = _library(), ctypes.c_size_t()
    _check(getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(nvrtc, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


@cache
def _text(source: str) -> str:
    return (cuda_dir() / source).read_text()


@cache
def sources(source: str) -> tuple[str, ...]:
    """A source file and all that it includes."""
    found = [source]
    for name in found:  # grows while it is walked
        found += [
            included
            for included in re.findall(r'^#include "([^"]+)"', _text(name), re.MULTILINE)
            if included not in found
        ]
    return tuple(found)


def _cache_file(kernel: Kernel, scalar: str, architecture: str) -> Path:
    texts = [_text(source) for source in sources(kernel.source)]
    key = (kernel.expression(scalar), architecture, nvrtc_version(), *OPTIONS, *texts)
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()
    return user_cache() / "cuda" / f"{kernel.name}-{architecture}-{digest[:32]}.cubin"


def _read(path: Path) -> Cubin | None:
    try:
        header, code = path.read_bytes().split(b"\n", 1)
        symbol, digest = header.decode().split()
    except (OSError, ValueError):
        return None
    return Cubin(symbol, code) if digest == hashlib.sha256(code).hexdigest() else None


def _write(path: Path, made: Cubin) -> None:
    """Write under a temporary name, then rename: no process ever reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = f"{made.symbol} {hashlib.sha256(made.code).hexdigest()}\n"
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(header.encode() + made.code)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)
