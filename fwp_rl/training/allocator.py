"""glibc's memory allocator, told to keep what is freed."""

import ctypes
import platform

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_ONE_GIB = 1 << 30


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
