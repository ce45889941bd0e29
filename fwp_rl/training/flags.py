"""Command-line flags on top of a config.

tyro turns every field into a flag. Two things are ours, because they are checked before anything
else happens: ``core:lstm`` (``encoder:``, ``env:``) chooses the class of a section by its
registered name, and an unknown flag is answered with the nearest known one.
"""

import dataclasses
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import tyro

from fwp_rl.config import ConfigError
from fwp_rl.registry import UnknownNameError, suggestion
from fwp_rl.training.config import TrainConfig
from fwp_rl.training.presets import SECTIONS

__all__ = ["apply_flags"]

C = TypeVar("C", bound=TrainConfig)

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
    return tyro.cli(type(config), default=config, args=rest, prog=prog, description=description)


def _sections(config: TrainConfig) -> dict[str, Any]:
    """Field → registry, for the fields whose class is chosen by name."""
    hints = typing.get_type_hints(type(config))
    return {name: SECTIONS[hint] for name, hint in hints.items() if hint in SECTIONS}


def _select(config: C, section: str, name: str) -> C:
    try:
        chosen = _sections(config)[section][name]
    except UnknownNameError as error:
        raise ConfigError(str(error)) from None
    if type(getattr(config, section)) is chosen:
        return config
    return dataclasses.replace(config, **{section: chosen()})


def _check_flags(config: TrainConfig, args: Sequence[str]) -> None:
    known = {"--help", *_flags(config, "")}
    for arg in args:
        flag = arg.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in known:
            hint = suggestion(flag, known)
            raise ConfigError(f"there is no flag {flag}. {hint or 'See --help'}")


def _flags(config: Any, prefix: str) -> Iterator[str]:
    for field in dataclasses.fields(config):
        name, value = f"{prefix}{field.name.replace('_', '-')}", getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flags(value, f"{name}.")
        else:
            yield f"--{name}"
            if isinstance(value, bool):
                yield f"--{prefix}no-{field.name.replace('_', '-')}"
