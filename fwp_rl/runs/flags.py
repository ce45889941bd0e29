"""Command-line flags on top of a config.

``core:lstm`` (``encoder:``, ``env:``) chooses the class of a section by its registered name, and a
flag that the chosen classes do not have is answered with those that have it. ``arguments.py`` says
how flags are read.
"""

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from fwp_rl.config import ConfigError, union_members
from fwp_rl.registry import Registry, UnknownNameError, canonical, suggestion
from fwp_rl.runs.arguments import check_flags, negated, read
from fwp_rl.runs.config import RunConfig
from fwp_rl.runs.presets import REGISTRIES, having

__all__ = ["apply_flags", "as_flags"]

C = TypeVar("C", bound=RunConfig)

_SELECTOR = re.compile(r"([a-z]+):([\w-]+)")


def apply_flags(config: C, args: Sequence[str], *, prog: str, description: str) -> C:
    """The config with flags and selectors applied. ``--help`` prints and exits.

    Raises ConfigError for an unknown selector or flag and for a value out of range.
    """
    rest = []
    for arg in args:
        match = _SELECTOR.fullmatch(arg)
        if match and match[1] in _sections(config):
            config = _select(config, match[1], match[2])
        else:
            rest.append(arg)
    flags = _flags(config)
    check_flags(flags, rest, lambda flag, value: _where(config, flag, value))
    return read(type(config), rest, flags, prog=prog, description=description, default=config)


def as_flags(fields: Mapping[str, Any]) -> list[str]:
    """The flags that set these fields: numbers, strings, truth values and None, the fields of a
    section joined to its name by a dot."""
    flags = []
    for name, value in fields.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(flag if value else negated(flag))
        else:
            flags += [flag, str(value)]
    return flags


def _sections(config: RunConfig) -> dict[str, Registry[Any]]:
    """Field → registry, for the fields whose class is chosen by name."""
    hints = typing.get_type_hints(type(config))
    return {name: REGISTRIES[hint] for name, hint in hints.items() if hint in REGISTRIES}


def _select(config: C, section: str, name: str) -> C:
    try:
        chosen = _sections(config)[section][name]
    except UnknownNameError as error:
        raise ConfigError(str(error)) from None
    if type(getattr(config, section)) is chosen:
        return config
    return dataclasses.replace(config, **{section: chosen()})


def _where(config: RunConfig, flag: str, value: str) -> str:
    """Where an unknown flag is found: as a selector (``--core lstm``), or with another class of its
    section (``--env.game``); "" where it is not."""
    section, _, option = flag.removeprefix("--").partition(".")
    registry = _sections(config).get(section)
    if registry is None:
        return ""
    if not option:
        if value in registry:
            return f"Choose the {registry.kind} with {section}:{canonical(value)}"
        hint = suggestion(value, registry.names())
        return f"Choose the {registry.kind} with {section}:NAME. {hint}".strip()
    return having(registry, option.removeprefix("no-").replace("-", "_"), section)


def _flags(config: Any, prefix: str = "--") -> dict[str, tuple[Any, ...]]:
    """Every flag of a config, as tyro has it → the types that its value may have."""
    flags: dict[str, tuple[Any, ...]] = {}
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        flag, value = prefix + field.name.replace("_", "-"), getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flags |= _flags(value, f"{flag}.")
        elif isinstance(value, dict) and value:  # tyro makes a flag of each key
            flags |= {f"{flag}.{key.replace('_', '-')}": (type(value[key]),) for key in value}
        else:
            flags[flag] = union_members(hints[field.name])
    return flags
