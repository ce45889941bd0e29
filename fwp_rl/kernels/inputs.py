"""What an op asks of its arguments, written as a table and checked once, at the op's entry."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "FLOATS",
    "HALF",
    "Argument",
    "Inputs",
    "Tensors",
    "check_arguments",
    "check_state",
    "forms_of",
    "groups_of",
    "in_float32",
]

Inputs = Sequence[Any]
"""An op's tensors, or None, then its options, in the order of its description."""

Tensors = Sequence[Any]
"""Tensors, or None where an op goes without one."""

HALF = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, torch.float64, *HALF)


class Argument(NamedTuple):
    """A tensor that an op takes.

    letters   its sizes: a letter stands for one size wherever it occurs, a number for itself
    optional  whether it may be None
    state     whether it is a part of the state: has columns, but no time
    others    its letters in the op's other forms, for messages
    """

    name: str
    letters: str
    optional: bool
    state: bool
    others: tuple[str, ...] = ()

    @classmethod
    def parse(cls, name: str, sizes: str) -> "Argument":
        """Of sizes such as ``"T B H K"``; a "?" before them says that it may be None."""
        spaced = sizes.removeprefix("?")
        return cls(name, spaced.replace(" ", ""), sizes != spaced, spaced.startswith("B"))

    @property
    def sizes(self) -> str:
        """For a message: ``[T, B, H, K]``."""
        return _brackets(self.letters)


def groups_of(sizes: Iterable[str]) -> tuple[str, ...]:
    """What stands in parentheses: sizes that all tensors have that could, or none."""
    return tuple(dict.fromkeys(x for each in sizes for x in re.findall(r"\((.*?)\)", each)))


def forms_of(inputs: Mapping[str, str]) -> dict[tuple[str, ...], tuple[Argument, ...]]:
    """Groups that are missing → the arguments of an op in that form; the first has all groups."""
    groups = groups_of(inputs.values())
    forms = {}
    for present in product((True, False), repeat=len(groups)):
        missing = tuple(x for x, there in zip(groups, present, strict=True) if not there)
        forms[missing] = [
            Argument.parse(name, _without(sizes, missing)) for name, sizes in inputs.items()
        ]
    letters = [{form[n].letters: None for form in forms.values()} for n in range(len(inputs))]
    return {
        missing: tuple(
            x._replace(others=tuple(y for y in each if y != x.letters))
            for x, each in zip(form, letters, strict=True)
        )
        for missing, form in forms.items()
    }


def _without(sizes: str, missing: Collection[str]) -> str:
    for group in missing:
        sizes = sizes.replace(f"({group})", "")
    return " ".join(re.sub(r"[()]", "", sizes).split())


_NUMBERS = {str(size): size for size in range(1, 10)}


def check_arguments(
    arguments: Sequence[Argument], tensors: Sequence[Any], *, one_dtype: bool = True
) -> dict[str, int]:
    """Raise TypeError or ValueError, in one line, unless all tensors fit their arguments and each
    other: every size is at least 1, all are on the device of the first.

    one_dtype  whether all share the first one's dtype, or are state of float32 beside a first one
               of ``HALF``; else any of ``FLOATS`` will do. The argument named "reset" is of bool
               always
    returns    letter → size
    """
    sizes = dict(_NUMBERS)
    first, dtype, device = "", None, None
    for (name, letters, optional, state, others), x in zip(  # noqa: B905 (Op counts)
        arguments, tensors
    ):
        if x is None and optional:
            continue
        if not isinstance(x, Tensor):
            given = "None" if x is None else f"of type {type(x).__name__}"
            raise TypeError(f"{name} is {given}, expected a tensor {_brackets(letters, *others)}")
        if not _fits(x.shape, letters, sizes):
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, expected "
                + (
                    _brackets(letters, *others)
                    if others and x.ndim != len(letters)
                    else _brackets(letters) + _expected_sizes(x, letters, sizes)
                )
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
        elif x.dtype != dtype and x.dtype not in (known := _dtypes(dtype, state, one_dtype)):
            expected = " or ".join(map(str, dict.fromkeys((dtype, *known))))
            raise TypeError(
                f"{name} has dtype {x.dtype}, expected {expected} beside {first}'s {dtype}"
            )
    return sizes


def _dtypes(dtype: torch.dtype | None, state: bool, one_dtype: bool) -> tuple[torch.dtype, ...]:
    """What an argument may have instead of the first one's dtype."""
    if not one_dtype:
        return FLOATS
    return (torch.float32,) if dtype in HALF and state else ()


def check_state(state: Any, names: Sequence[str]) -> tuple[Any, ...]:
    """The parts of a state that has several, for ``check_arguments`` to look into."""
    if not isinstance(state, tuple) or len(state) != len(names):
        given = (
            f"of {len(state)}" if isinstance(state, tuple) else f"of type {type(state).__name__}"
        )
        raise TypeError(f"state is {given}, expected a tuple ({', '.join(names)})")
    return state


def in_float32(x: Tensor | None) -> Tensor | None:
    """As float32, where it is of numbers."""
    return x if x is None or not x.is_floating_point() else x.float()


def _fits(shape: torch.Size, letters: str, sizes: dict[str, int]) -> bool:
    """Whether a tensor has the sizes; binds the letters that are new. Every acting step asks."""
    if len(shape) != len(letters):
        return False
    for letter, size in zip(letters, shape):  # noqa: B905 (of one length)
        if size == 0 or sizes.setdefault(letter, size) != size:
            return False
    return True


def _brackets(*letters: str) -> str:
    return " or ".join(f"[{', '.join(x)}]" for x in letters)


def _expected_sizes(x: Tensor, letters: str, sizes: dict[str, int]) -> str:
    if 0 in x.shape or not any(letter in sizes for letter in letters):
        return " with all sizes >= 1"
    if x.ndim == len(letters):  # letters that are new here have the sizes that were given
        sizes = dict(zip(letters, x.shape, strict=True)) | sizes
    return f" = ({', '.join(str(sizes.get(letter, letter)) for letter in letters)})"
