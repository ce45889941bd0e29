"""The control beside busy processes: what a busy machine leaves of a speed at the best."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from fwp_rl.machine import usable_cores

__all__ = ["products_per_second"]

SIZE = 512
"""Rows and columns of the control's matrices: some milliseconds each, out of the cores' own caches,
so that the threads meet neither in Python nor in memory."""


def products_per_second(seconds: float) -> float:
    """The control: as many threads as cores that multiply matrices and never wait for each other,
    so that all they lose beside other processes is what the system gives to those. To be called in
    a fresh process.

    returns  matrix products of all threads together, per second
    """
    cores = usable_cores()
    together = threading.Barrier(cores)

    def work() -> float:
        torch.set_num_threads(1)
        a, b, product = (torch.randn(SIZE, SIZE) for _ in range(3))
        torch.mm(a, b, out=product)
        together.wait()
        start, count = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < seconds:
            torch.mm(a, b, out=product)
            count += 1
        return count / passed

    with ThreadPoolExecutor(cores) as pool:
        return sum(done.result() for done in [pool.submit(work) for _ in range(cores)])
