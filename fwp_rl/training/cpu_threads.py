"""How many cores torch, and with it the numba kernels, compute with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["cpu_threads"]


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Compute on ``count`` cores in this Python thread, and as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
