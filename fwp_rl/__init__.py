"""Reinforcement learning with fast weight programmers.

Nothing heavy is imported here: ``fwp_rl.kernels`` and ``fwp_rl.cores`` stay usable where only
torch, numpy and numba are installed.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fwp_rl.experiment import train
    from fwp_rl.gymnasium_vector import make
    from fwp_rl.rl.player import load_player
    from fwp_rl.runs.policy import load_policy

__all__ = ["__version__", "load_player", "load_policy", "make", "train"]

try:
    __version__ = version("fwp-rl")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+uninstalled"

_HOMES: Final = {
    "load_player": "fwp_rl.rl.player",
    "load_policy": "fwp_rl.runs.policy",
    "make": "fwp_rl.gymnasium_vector",
    "train": "fwp_rl.experiment",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fwp_rl' has no attribute {name!r}")
