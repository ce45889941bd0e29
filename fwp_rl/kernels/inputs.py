"""What an op asks of its arguments, written as a table and checked once, at the op's entry."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["FLOATS", "HALF", "Arguments", "check_arguments", "check_state", "is_state"]

HALF = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, torch.float64, *HALF)

Arguments = Mapping[str, tuple[Any, str]]
"""Name of an argument → its value and its sizes, such as ``(q, "T B H K")``; see ``is_state``."""


_NUMBERS = {str(size): size for size in range(1, 10)}


def check_arguments(
    arguments: Arguments, *, optional: Collection[str] = (), one_dtype: bool = True
) -> dict[str, int]:
    """Raise TypeError or ValueError, in one line, unless all arguments fit each other.

    arguments  a letter stands for one size wherever it occurs, a number for itself; every size is
               at least 1; all are on the device of the first
    optional   names that may be None
    one_dtype  whether all share the first one's dtype, or are state of float32 beside a first one
               of ``HALF``; else any of ``FLOATS`` will do. The argument named "reset" is of bool
               always
    returns    letter → size
    """
    sizes = dict(_NUMBERS)
    first, dtype, device = "", None, None
    for name, (x, letters) in arguments.items():
        if x is None and name in optional:
            continue
        if not isinstance(x, Tensor):
            given = "None" if x is None else f"of type {type(x).__name__}"
            raise TypeError(f"{name} is {given}, expected a tensor {_brackets(letters)}")
        if not _fits(x.shape, letters[::2], sizes):
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, expected {_brackets(letters)}"
                + _expected_sizes(x, letters.split(), sizes)
            )
        if not first:
            first, dtype, device = name, x.dtype, x.device
            if dtype not in FLOATS:
                expected = ", ".join(map(str, FLOATS))
                raise TypeError(f"{name} has dtype {dtype}, expected one of {expected}")
        elif x.device != device:
            raise ValueError(f"{name} is on {x.device}, expected {device}, where {first} is")
        elif name == "reset":
            if x.dtype != torch.bool:
                raise TypeError(f"reset has dtype {x.dtype}, expected torch.bool")
        elif x.dtype != dtype and x.dtype not in (others := _others(dtype, letters, one_dtype)):
            expected = " or ".join(map(str, dict.fromkeys((dtype, *others))))
            raise TypeError(
                f"{name} has dtype {x.dtype}, expected {expected} beside {first}'s {dtype}"
            )
    return sizes


def _others(dtype: torch.dtype | None, letters: str, one_dtype: bool) -> tuple[torch.dtype, ...]:
    """What an argument may have instead of the first one's dtype."""
    if not one_dtype:
        return FLOATS
    return (torch.float32,) if dtype in HALF and is_state(letters) else ()


def is_state(letters: str) -> bool:
    """Whether an argument of these sizes is a part of the state: has columns, but no time."""
    return letters.startswith("B")


def check_state(state: Any, *names: str) -> tuple[Any, ...]:
    """The parts of a state that has several, for ``check_arguments`` to look into."""
    if not isinstance(state, tuple) or len(state) != len(names):
        given = (
            f"of {len(state)}" if isinstance(state, tuple) else f"of type {type(state).__name__}"
        )
        raise TypeError(f"state is {given}, expected a tuple ({', '.join(names)})")
    return state


def _fits(shape: torch.Size, letters: str, sizes: dict[str, int]) -> bool:
    """Whether a tensor has the sizes; binds the letters that are new. Every acting step asks."""
    if len(shape) != len(letters):
        return False
    for letter, size in zip(letters, shape):  # noqa: B905 (of one length)
        if size == 0 or sizes.setdefault(letter, size) != size:
            return False
    return True


def _brackets(letters: str) -> str:
    return f"[{', '.join(letters.split())}]"


def _expected_sizes(x: Tensor, letters: list[str], sizes: dict[str, int]) -> str:
    if 0 in x.shape or not any(letter in sizes for letter in letters):
        return " with all sizes >= 1"
    if x.ndim == len(letters):  # letters that are new here have the sizes that were given
        sizes = dict(zip(letters, x.shape, strict=True)) | sizes
    return f" = ({', '.join(str(sizes.get(letter, letter)) for letter in letters)})"
