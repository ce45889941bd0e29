"""Environments. Every module of this package is imported, so that a new family is one new file."""

from importlib import import_module
from pkgutil import iter_modules

from fwp_rl.envs.base import (
    ENVS,
    ActionError,
    AnswerError,
    EnvConfig,
    EnvStep,
    Game,
    VectorEnv,
)

__all__ = ["ENVS", "ActionError", "AnswerError", "EnvConfig", "EnvStep", "Game", "VectorEnv"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
