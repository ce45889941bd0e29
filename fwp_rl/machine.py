"""The machine: its devices, the cores that this process may use, its memory allocator, and the
facts that results carry. Needs torch alone, and imports it where it is asked about."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fwp_rl.config import ConfigError
from fwp_rl.registry import shown

if TYPE_CHECKING:
    import torch

__all__ = [
    "check_device_name",
    "choose_device",
    "commit",
    "cpu_threads",
    "dirty",
    "facts",
    "keep_freed_memory",
    "limit_threads",
    "processor",
    "set_gpu_arithmetic",
    "usable_cores",
    "versions",
]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_ONE_GIB = 1 << 30
_SHARE = "FWP_RL_CORES"
_PRECISIONS = ("float32", "tf32")
_PACKAGES = ("fwp-rl", "torch", "numpy", "numba", "envpool", "ale-py", "gymnasium")


def check_device_name(name: str, *, field: str = "device") -> None:
    """ConfigError unless it names a device, whether or not this machine has it: a run that was
    trained on a GPU is read on machines without one.

    field  what the error calls it
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(name)):
        raise ConfigError(f"{field}: got {shown(name)}, expected auto, cpu, cuda or cuda:N")


def choose_device(name: str, *, field: str = "device") -> torch.device:
    """The device of that name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; auto takes a CUDA device
    where there is one. ConfigError where it is none of these, or this machine does not have it.

    field  of the config or flag that names it, for the error: ``device``, ``actors.device``
    """
    import torch

    check_device_name(name, field=field)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        have = f"only {count}, counted from cuda:0" if count else "no CUDA device"
        instead = "a smaller number" if count else f"--{field} cpu"
        raise ConfigError(f"{field}: got {name!r}, but torch finds {have} here; use {instead}")
    return device


def set_gpu_arithmetic(matmul_precision: Literal["float32", "tf32"]) -> None:
    """How this process computes on CUDA devices from now on. A CPU computes as before, bit for bit.

    matmul_precision  of all products of float32: torch's linear layers and cuDNN's convolutions,
                      LSTM and GRU alike. By default torch takes float32 for its own, and TF32 for
                      cuDNN's: a recurrent net is then faster, and rougher, than what it is compared
                      with

    cuDNN times its convolutions at the first call of each shape and keeps the fastest: shapes here
    are few and stay the same. Not where it was told to be deterministic.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = matmul_precision == "tf32"
    torch.backends.cudnn.allow_tf32 = matmul_precision == "tf32"
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic


def usable_cores(root: Path = Path("/")) -> int:
    """The cores that this process may use, one at least: those of its affinity (``taskset``,
    Slurm), no more than a container's quota pays for, rounded down, and no more than the variable
    FWP_RL_CORES says, which is how processes beside each other get a share. ConfigError where that
    is no number.

    root  where ``proc`` and ``sys`` are mounted
    """
    limits = [_affinity(), _quota(root), _share()]
    return max(1, int(min(limit for limit in limits if limit is not None)))


def limit_threads() -> None:
    """Let torch compute with no more threads than a container's quota pays for, or this process's
    share is, unless OMP_NUM_THREADS is set. Affinity OpenMP sees by itself, these it does not.

    Best before torch is imported: OpenMP then starts no thread in vain, and processes that this one
    starts are limited too. Later on torch is told, for the whole process.
    """
    cores = usable_cores()
    if cores >= _affinity() or "OMP_NUM_THREADS" in os.environ:
        return
    torch = sys.modules.get("torch")
    if torch is None:
        os.environ["OMP_NUM_THREADS"] = str(cores)
    elif torch.get_num_threads() > cores:
        torch.set_num_threads(cores)


def _affinity() -> int:
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        cores: int | None = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count()
    return cores or 1


def _share() -> int | None:
    given = os.environ.get(_SHARE)
    if not given:
        return None
    if not given.isdecimal() or int(given) < 1:
        raise ConfigError(f"{_SHARE}: got {given!r}, expected a whole number, 1 or more")
    return int(given)


def _quota(root: Path) -> float | None:
    """Cores by the control groups of this process, version 1 or 2; None where nothing limits it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    mounts = root / "sys/fs/cgroup"
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        below = [part for part in path.split("/") if part]
        if ".." in below:  # outside what this process sees
            below = []
        for mount in (mounts / controllers, mounts / "cpu") if controllers else (mounts,):
            # a limit may be set at any level above; inside a container the path is the host's and
            # leads nowhere, and what is mounted at the top is the container's own
            for depth in range(len(below) + 1):
                found += _limits(mount.joinpath(*below[:depth]))
    return min(found, default=None)


def _limits(group: Path) -> list[float]:
    """Cores that a control group allows, if it says so."""
    try:
        if (group / "cpu.max").is_file():  # version 2: "150000 100000" or "max 100000"
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        cores = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return []
    return [cores] if cores > 0 else []  # version 1 writes -1 for no limit


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Compute on ``count`` cores in this Python thread, and as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> bool:
    """Serve blocks below 1 GiB from the heap, and give nothing back to the system.

    By default glibc maps each big block anew, and the kernel zeroes its pages at every training
    step. Affects the whole process. False where the C library is not glibc: nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(
        libc.mallopt(_M_MMAP_THRESHOLD, _ONE_GIB) and libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    )


def facts(device: torch.device | str = "cpu") -> dict[str, Any]:
    """``machine``, ``versions``, ``commit`` and ``dirty``: what a result is told apart by later, as
    JSON. Other numbers of threads add up in another order: results differ in their last bits.

    device  where it was computed; a GPU is named only if it was used, for asking starts CUDA, and
            with it how its products of float32 are computed
    """
    import torch

    machine: dict[str, Any] = {
        "host": socket.gethostname(),
        "processor": processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "numba_threads": _numba_threads(),
    }
    if torch.device(device).type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
        ours, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        machine["matmul_precision"] = _PRECISIONS[ours]
        machine["cudnn_precision"] = _PRECISIONS[cudnn]
        machine["cudnn_benchmark"] = torch.backends.cudnn.benchmark
    return {"machine": machine, "versions": versions(), "commit": commit(), "dirty": dirty()}


def _numba_threads() -> int:
    """The most threads that numba's kernels compute with, which take no more than torch's."""
    numba = sys.modules.get("numba")
    if numba is not None:
        return int(numba.config.NUMBA_NUM_THREADS)
    given = os.environ.get("NUMBA_NUM_THREADS", "")  # what it would read, were it imported
    return int(given) if given.isdecimal() else _affinity()


@cache
def versions() -> dict[str, str]:
    """Python, the platform, CUDA, and the packages that results depend on, as far as installed."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    import torch

    found["torch"] = str(torch.__version__)  # with its build, which the package's version may lack
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    return found


@cache
def processor() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


@cache
def commit() -> str | None:
    """The commit of the checkout that this package is run from; None where it was installed, where
    there is no repository, or no git to ask."""
    root = _root()
    lines = (_git("rev-parse", "--show-toplevel", "HEAD") or "").splitlines()
    # a package that was installed below somebody's repository is not of that repository's commit
    return lines[1] if len(lines) == 2 and Path(lines[0]).resolve() == root else None


@cache
def dirty() -> bool | None:
    """Whether files of the checkout differ from the commit, those that git does not track left
    aside; None where there is no commit to differ from."""
    if commit() is None:
        return None
    changed = _git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    return None if changed is None else bool(changed)


def _root() -> Path:
    return Path(__file__).resolve().parents[1]


def _git(*args: str) -> str | None:
    """What git says in the checkout; None where it fails, or there is none."""
    try:
        done = subprocess.run(
            ["git", *args], cwd=_root(), capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return None if done.returncode else done.stdout
