"""The algorithms, each readable alone, top to bottom. Installed as ``fwp_rl.agents``.

Every module of this package is imported, so that a new agent is one new file.
"""

from importlib import import_module
from pkgutil import iter_modules

from fwp_rl.runs.presets import config_from_dict, load_preset

__all__ = ["config_from_dict", "load_preset"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
