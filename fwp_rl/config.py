"""Frozen, keyword-only dataclasses, declared beside what they configure, are the only schema.

``Range`` in a field's annotation states what it may hold, and ``check_ranges`` in
``__post_init__`` holds it there, so that YAML, command line and Python share one check:

    learning_rate: Annotated[float, Range(0, 1, above=True)] = 2.5e-4

``BOOKKEEPING`` marks a field that says only how and where a run goes on, not what is tried:

    device: Annotated[str, BOOKKEEPING] = "auto"
"""

import dataclasses
import math
import types
import typing
from functools import cache
from typing import Any, Union

from fwp_rl.registry import suggestion

__all__ = ["BOOKKEEPING", "ConfigError", "Range", "check_ranges", "is_bookkeeping", "union_members"]


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
    choice field one of its choices, and every string field a string."""
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
    choices = [c for o in options if typing.get_origin(o) is typing.Literal for c in o.__args__]
    if choices:
        if value in choices:
            return None
        hint_text = suggestion(str(value), map(str, choices))
        return f"got {value!r}, expected one of {', '.join(map(str, choices))}. {hint_text}".strip()
    if str in options:
        return None if isinstance(value, str) else f"got {value!r}, expected a string"
    kinds = [kind for kind in (bool, int, float) if kind in options]
    if not kinds:
        return None
    if isinstance(value, bool) or bool in kinds:
        good = isinstance(value, bool) and bool in kinds
        return None if good else f"got {value!r}, expected {' or '.join(k.__name__ for k in kinds)}"
    number = (int, float) if float in kinds else (int,)
    if not isinstance(value, number):
        word = "a number" if float in kinds else "a whole number"
        return f"got {value!r}, expected {word}, {allowed}"
    return None if allowed.allows(value) else f"got {value!r}, expected {allowed}"


def union_members(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows: itself, unless it is a union."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)
