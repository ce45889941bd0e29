"""Recurrent cores. Every module of this package is imported, so that a new core is one new file."""

from importlib import import_module
from pkgutil import iter_modules

from fwp_rl.cores.base import CORES, Core, CoreConfig, build_core, recording

__all__ = ["CORES", "Core", "CoreConfig", "build_core", "recording"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
