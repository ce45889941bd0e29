"""Sequence tasks: what a core can hold, without an environment. Every module of this package is
imported, so that a new task is one new file."""

from importlib import import_module
from pkgutil import iter_modules

from fwp_rl.tasks.base import TASKS, Split, Task, TaskBatch, TaskConfig

__all__ = ["TASKS", "Split", "Task", "TaskBatch", "TaskConfig"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
