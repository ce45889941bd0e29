"""Frozen, keyword-only dataclasses, declared beside what they configure, are the only schema.

``Range`` in a field's annotation states what it may hold, and ``check_ranges`` in
``__post_init__`` holds it there, so that YAML, command line and Python share one check:

    learning_rate: Annotated[float, Range(0, 1, above=True)] = 2.5e-4

``BOOKKEEPING`` marks a field that says only how and where a run goes on, not what is tried:

    device: Annotated[str, BOOKKEEPING] = "auto"
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Collection
from decimal import Decimal
from functools import cache
from typing import Any, Union

from fwp_rl.registry import shown, suggestion

__all__ = [
    "BOOKKEEPING",
    "NOTHING",
    "ConfigError",
    "Range",
    "as_written",
    "check_ranges",
    "is_bookkeeping",
    "union_members",
]

LONGEST_TEXT = 4096
"""Characters of a string field: the longest path that Linux takes."""


class ConfigError(ValueError):
    """A config value that cannot be: says what was given, what is expected."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a field may hold: ``Range(0, 1)`` is 0 <= x <= 1, ``Range(0, above=True)``
    is x > 0. NaN and infinity never are."""

    low: float | None = None
    high: float | None = None
    above: bool = False
    """The lower end itself is excluded."""

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{'more than ' if self.above else ''}{self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"more than {self.low:g}" if self.above else f"{self.low:g} or more"
        return f"{self.high:g} or less" if self.high is not None else "finite"

    def allows(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.low is not None and (value <= self.low if self.above else value < self.low):
            return False
        return self.high is None or value <= self.high


class Bookkeeping:
    """The type of ``BOOKKEEPING``."""


BOOKKEEPING = Bookkeeping()
"""The mark of a field that does not make two runs different experiments: a resumed run may change
it, an ablation and a report do not tell runs apart by it."""


def is_bookkeeping(cls: type, field: str) -> bool:
    """Whether a field of a config class has the mark."""
    hint = _hints(cls)[field]
    return typing.get_origin(hint) is typing.Annotated and BOOKKEEPING in typing.get_args(hint)[1:]


def check_ranges(config: Any) -> None:
    """Raise ConfigError unless every number field of a dataclass has its type and range, every
    choice field one of its choices, every string field a string, and every tuple such items."""
    for name, hint in _hints(config.__class__).items():
        problem = _problem(getattr(config, name), hint)
        if problem:
            raise ConfigError(f"{name}: {problem}")


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _problem(value: Any, hint: Any) -> str | None:
    """What is wrong with a value, or None."""
    allowed = Range()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *extras = typing.get_args(hint)
        allowed = next((extra for extra in extras if isinstance(extra, Range)), allowed)
    options = union_members(hint)
    if value is None and type(None) in options:
        return None
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (tuple, list)):
            return f"got {shown(value)}, expected a list"
        item, *_ = typing.get_args(hint)
        return next(filter(None, (_problem(each, item) for each in value)), None)
    choices = [c for o in options if typing.get_origin(o) is typing.Literal for c in o.__args__]
    if choices:
        return None if value in choices else _no_choice(value, choices)
    if str in options:
        return _no_text(value)
    kinds = [kind for kind in (bool, int, float) if kind in options]
    return _no_number(value, kinds, allowed) if kinds else None


def _no_choice(value: Any, choices: list[Any]) -> str:
    hint = suggestion(value, map(str, choices)) if isinstance(value, str) else ""
    return f"got {shown(value)}, expected one of {', '.join(map(str, choices))}. {hint}".strip()


def _no_text(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"got {shown(value)}, expected a string"
    if len(value) > LONGEST_TEXT or "\0" in value:
        return f"got {shown(value)}, expected at most {LONGEST_TEXT:,} characters, none of them NUL"
    return None


def _no_number(value: Any, kinds: Collection[type], allowed: Range) -> str | None:
    if bool in kinds:
        return None if isinstance(value, bool) else f"got {shown(value)}, expected true or false"
    if isinstance(value, bool) or not isinstance(value, (int, float) if float in kinds else int):
        word = "a number" if float in kinds else "a whole number"
        return f"got {shown(value)}, expected {word}" + f", {allowed}" * (allowed != Range())
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"got {shown(value)}, expected at most 18 digits"
    return None if allowed.allows(value) else f"got {shown(value)}, expected {allowed}"


_WITH_EXPONENT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]{1,3}", re.ASCII
)


NOTHING = ("none", "null")
"""The words for no value, in YAML, in grids and on the command line; in any case of letters."""


def as_written(text: str, options: tuple[Any, ...]) -> Any:
    """What a person means who writes a word for a field: ``none`` for no value, where the field may
    have none, and ``1e6`` for a million, which YAML and ``int`` do not know, where it is a number.
    The text itself in all other cases.

    options  the types that the field may have, as ``union_members`` has them
    """
    if type(None) in options and text.lower() in NOTHING:
        return None
    if str in options or any(typing.get_origin(o) is typing.Literal for o in options):
        return text
    if {int, float} & set(options) and _WITH_EXPONENT.fullmatch(text):
        number = Decimal(text.replace("_", ""))
        return int(number) if number == number.to_integral_value() else float(number)
    return text


def union_members(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows: itself, unless it is a union."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)
