"""Reinforcement learning with fast weight programmers.

Nothing heavy is imported here: ``fwp_rl.kernels`` and ``fwp_rl.cores`` stay usable where only
torch, numpy and numba are installed.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fwp_rl.experiment import train
    from fwp_rl.runs.policy import load_policy

__all__ = ["__version__", "load_policy", "train"]

try:
    __version__ = version("fwp-rl")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+uninstalled"


def __getattr__(name: str) -> Any:
    if name == "load_policy":
        from fwp_rl.runs.policy import load_policy

        return load_policy
    if name == "train":
        from fwp_rl.experiment import train

        return train
    raise AttributeError(f"module 'fwp_rl' has no attribute {name!r}")
