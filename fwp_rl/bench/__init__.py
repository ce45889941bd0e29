"""Speed, measured on the machine at hand: ``fwp-rl bench NAME``.

Every figure is a median over rounds that alternate between what is compared, so that a slow
minute of the machine falls on all alike. Compare figures of one run only.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

__all__ = ["BENCHMARKS", "load_benchmark"]

BENCHMARKS: Final = {
    "training": "environment steps per second of whole training runs, and what the core costs",
    "kernels": "the fast-weight kernels, beside what they replace and what the machine could do",
}
"""Name → what it measures. The benchmark is ``bench_<name>`` in the module of that name."""


def load_benchmark(name: str) -> Callable[..., Any]:
    """The benchmark's function. Its module is imported here: that of one needs packages that
    another does without."""
    return getattr(import_module(f"{__name__}.{name}"), f"bench_{name}")  # type: ignore[no-any-return]
