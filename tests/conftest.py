"""Shared by all tests."""

import os
import signal

# A shell starts what it puts into the background with SIGINT ignored, and so are its children. The
# tests that interrupt a process would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Set before torch starts OpenMP: threads that spin while they wait stall each other, and the
# tests, wherever something else is running on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

KERNELS = Path(__file__).parent / "kernels"
GPU = Path(__file__).parent / "cuda"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """``pytest -m gpu``, or ``-m "gpu and ..."``, needs torch, numba and pytest alone: other
    folders' tests import more."""
    if config.option.markexpr.split()[:1] != ["gpu"] or collection_path in GPU.parents:
        return None
    return None if collection_path.is_relative_to(GPU) else True


@pytest.fixture(autouse=True, scope="module")
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tensors as small as the tests' are computed many times slower by threads that fight for a
    busy CPU. The kernels' tests keep their threads, which are what they test."""
    before = torch.get_num_threads()
    if KERNELS not in request.path.parents:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
