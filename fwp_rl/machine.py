"""The machine: its devices, how many cores torch computes with, and glibc's memory allocator."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from fwp_rl.config import ConfigError

__all__ = ["choose_device", "cpu_threads", "keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_ONE_GIB = 1 << 30


def choose_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device of that name, or a ConfigError where it does not exist."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device: got 'cuda', but torch finds no CUDA device here; use --device cpu"
        )
    return torch.device(name)


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Compute on ``count`` cores in this Python thread, and as before afterwards."""
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
