"""Modules that the user asks for by name: ``--import MODULE``, on every command.

A module of the user's own registers its cores, encoders, environments, agents or tasks as it is
imported. It is named on the command line and nowhere else: a config or a saved policy may come from
anybody, and what they name is never imported.
"""

import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from fwp_rl.config import ConfigError
from fwp_rl.registry import in_a_line, shown

__all__ = ["import_flags", "import_modules", "imported", "take_imports"]

FLAG = "--import"

_modules: tuple[str, ...] = ()


def take_imports(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The modules that a command's arguments name, and the other arguments. ConfigError for what
    is no module's name."""
    modules, rest = list[str](), list[str]()
    left = list(args)
    while left:
        flag, equals, name = (arg := left.pop(0)).partition("=")
        if flag != FLAG:
            rest.append(arg)
            continue
        if not equals:
            name = left.pop(0) if left and not left[0].startswith("-") else ""
        if not all(part.isidentifier() for part in name.split(".")):
            given = f"got {shown(name)}, " if name else ""
            raise ConfigError(
                f"{FLAG}: {given}expected the name of a module, as Python's import takes it: leaky "
                "for ./leaky.py"
            )
        modules.append(name)
    return modules, rest


def import_modules(names: Sequence[str]) -> None:
    """Import modules, from Python's path or the current folder, and remember their names, in
    place of those of an earlier call. ConfigError, in one line, where one cannot be imported."""
    global _modules
    here = os.getcwd()
    if names and not {"", here} & set(sys.path):
        sys.path.append(here)  # last: a file that lies here hides no installed module
    for name in names:
        try:
            import_module(name)
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{FLAG}: {name} cannot be imported: {_explained(error)}") from error
    _modules = tuple(names)


def imported() -> tuple[str, ...]:
    """The modules of the last ``import_modules``, for processes that are to know them too."""
    return _modules


def import_flags() -> str:
    """What a command that goes on with this one's work needs: `` --import leaky``, or nothing."""
    return "".join(f" {FLAG} {shlex.quote(name)}" for name in _modules)


def _explained(error: BaseException) -> str:
    """What went wrong and, below the import system, in which line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = "" if "importlib" in place.filename else f" ({place.filename}, line {place.lineno})"
    return in_a_line(error) + where
