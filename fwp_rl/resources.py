"""Finds configs/ and cuda/, inside the installed package or at the top of a checkout, and where
what is compiled on this machine is kept."""

import os
from pathlib import Path

__all__ = ["configs_dir", "cuda_dir", "user_cache"]

_PACKAGE = Path(__file__).resolve().parent


def configs_dir() -> Path:
    """The folder of the presets (``*.yaml``)."""
    return _find("configs")


def cuda_dir() -> Path:
    """The folder of the CUDA C++ sources."""
    return _find("cuda")


def user_cache() -> Path:
    """Where compiled kernels are kept: ``$XDG_CACHE_HOME/fwp_rl``, else ``~/.cache/fwp_rl``. It may
    not be there yet. Raises RuntimeError where the user has no home directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fwp_rl"


def _find(name: str) -> Path:
    candidates = [_PACKAGE / name, _PACKAGE.parent / name]
    for path in candidates:
        if path.is_dir():
            return path
    raise FileNotFoundError(
        f"the folder {name!r} is missing: looked at {' and '.join(map(str, candidates))}; "
        "install fwp_rl again"
    )
