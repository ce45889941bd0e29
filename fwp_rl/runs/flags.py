"""Command-line flags on top of a config.

tyro turns every field into a flag. Three things are ours: ``core:lstm`` (``encoder:``, ``env:``)
chooses the class of a section by its registered name, an unknown flag is answered with the nearest
known one or with the class that has it, and values may be written as people write them: truth as
``--flag``, ``--no-flag``, ``--flag false``, no value as ``none``, a million as ``1e6``.
"""

import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import tyro

from fwp_rl.config import ConfigError, as_written, union_members
from fwp_rl.registry import Registry, UnknownNameError, canonical, named, suggestion
from fwp_rl.runs.config import RunConfig
from fwp_rl.runs.presets import REGISTRIES

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
    _check_flags(config, rest)
    rest = list(_spell(config, rest))
    return tyro.cli(type(config), default=config, args=rest, prog=prog, description=description)


def as_flags(fields: Mapping[str, Any]) -> list[str]:
    """The flags that set these fields: numbers, strings, truth values and None, the fields of a
    section joined to its name by a dot."""
    flags = []
    for name, value in fields.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(flag if value else _negated(flag))
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


def _check_flags(config: RunConfig, args: Sequence[str]) -> None:
    known = {"--help", *_flags(config)}
    known |= {_negated(flag) for flag, options in _flags(config).items() if bool in options}
    for position, arg in enumerate(args):
        given, equals, value = arg.partition("=")
        flag = given.replace("_", "-")
        if flag.startswith("--") and flag not in known:
            if not equals:
                value = next(iter(args[position + 1 :]), "")
            hint = _where(config, flag, value) or suggestion(flag, known)
            raise ConfigError(f"there is no flag {named(flag)}. {hint or 'See --help'}")


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
    field = option.removeprefix("no-").replace("-", "_")
    owners = [
        f"{section}:{name}"
        for name, cls in registry.items()
        if field in {each.name for each in dataclasses.fields(cls)}
    ]
    more = " and others" if len(owners) > 3 else ""
    return f"It is an option of {', '.join(owners[:3])}{more}" if owners else ""


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


def _negated(flag: str) -> str:
    """``--env.no-fire-reset`` for ``--env.fire-reset``."""
    section, dot, name = flag.removeprefix("--").rpartition(".")
    return f"--{section}{dot}no-{name}"


_TRUTH = {"true": True, "yes": True, "false": False, "no": False, "none": None, "null": None}


def _spell(config: RunConfig, args: Sequence[str]) -> Iterator[str]:
    """The arguments with values as tyro wants them: ``--flag`` or ``--no-flag`` for truth, but
    ``--flag True`` where the value may be None, and True or False among the items of a mapping;
    numbers in full, and None for none. What is none of these is left for tyro to refuse."""
    flags = _flags(config)
    booleans = {flag: flag for flag, options in flags.items() if bool in options}
    booleans |= {_negated(flag): flag for flag in booleans}
    mappings = {flag for flag, options in flags.items() if typing.get_origin(options[0]) is dict}
    left: list[str] = []
    for arg in args:
        name, equals, word = arg.partition("=")
        left += [name, word] if equals and name.replace("_", "-") in flags | booleans else [arg]
    in_mapping = False
    while left:
        arg = left.pop(0)
        name = arg.replace("_", "-")
        if name not in booleans:
            in_mapping = name in mappings or (in_mapping and not arg.startswith("--"))
            yield arg.capitalize() if in_mapping and arg.lower() in ("true", "false") else arg
            if name in flags and left and not in_mapping:
                yield _spelled(left.pop(0), flags[name])
            continue
        in_mapping = False
        flag = booleans[name]
        truth: bool | None = name == flag
        if truth and left and not left[0].startswith("-"):
            if left[0].lower() not in _TRUTH:
                yield arg
                continue
            truth = _TRUTH[left.pop(0).lower()]
        if truth is None or type(None) in flags[flag]:
            yield from (flag, str(truth))
        else:
            yield flag if truth else _negated(flag)


def _spelled(word: str, options: tuple[Any, ...]) -> str:
    value = as_written(word, options)
    return word if value is word else str(value)
