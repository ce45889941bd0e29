"""How every command reads its flags, with tyro.

tyro makes a flag of every field of a config, and of every keyword of a command. Four things are
ours. Values may be written as people write them: truth as ``--flag``, ``--no-flag``, ``--flag
false``, no value as ``none``, a million as ``1e6``. An unknown flag is answered with what is
likely meant. A help text is broken where the terminal ends, not where its source does. Nothing
heavy is imported for any of it.
"""

import ast
import dataclasses
import inspect
import re
import shutil
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from fwp_rl.config import NOTHING, ConfigError, as_written, union_members
from fwp_rl.registry import named, shown, suggestion

__all__ = ["Flags", "check_flags", "negated", "read", "run_command"]

T = TypeVar("T")

Flags = Mapping[str, tuple[Any, ...]]
"""Flag → the types that its value may have, as ``union_members`` has them."""

_TRUTH = {"true": True, "yes": True, "false": False, "no": False} | dict.fromkeys(NOTHING)


def run_command(command: Callable[..., None], args: Sequence[str], *, prog: str) -> None:
    """Call a command, whose keywords are its flags, with what the arguments say.

    ConfigError for an unknown flag. ``--help`` prints and exits, and so does, with exit code 2,
    what cannot be read.
    """
    hints = typing.get_type_hints(command)
    flags = {
        "--" + name.replace("_", "-"): union_members(hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    check_flags(flags, args)
    description, command.__doc__ = _unwrapped(command.__doc__ or "")
    read(command, args, flags, prog=prog, description=description)


def read(
    target: Callable[..., T],
    args: Sequence[str],
    flags: Flags,
    *,
    prog: str,
    description: str,
    default: T | None = None,
) -> T:
    """What tyro makes of a function or a config class, and the arguments.

    flags        of the target
    description  paragraphs, which ``--help`` prints before all else
    default      a config that the flags are laid over
    """
    if {"-h", "--help"} & set(args):
        width = shutil.get_terminal_size().columns
        paragraphs = [textwrap.fill(part, width) for part in description.split("\n\n")]
        print("\n\n".join(paragraphs), end="\n\n")
    base: Any = tyro.MISSING_NONPROP if default is None else default
    result: T = tyro.cli(
        target,
        args=list(_spell(flags, args)),
        prog=prog,
        description="",  # tyro would not wrap it
        registry=_READING,
        default=base,
    )
    return result


def check_flags(
    flags: Flags, args: Sequence[str], where: Callable[[str, str], str] = lambda *_: ""
) -> None:
    """ConfigError for a flag that is not among those known.

    where  says of an unknown flag and the word after it where it is found, "" where it is not
    """
    known = {"--help", *flags}
    known |= {negated(flag) for flag, options in flags.items() if bool in options}
    for position, arg in enumerate(args):
        given, equals, value = arg.partition("=")
        flag = given.replace("_", "-")
        if flag.startswith("--") and flag not in known:
            if not equals:
                value = next(iter(args[position + 1 :]), "")
            hint = where(flag, value) or suggestion(flag, known)
            raise ConfigError(f"there is no flag {named(flag)}. {hint or 'See --help'}")


def negated(flag: str) -> str:
    """``--env.no-fire-reset`` for ``--env.fire-reset``."""
    section, dot, name = flag.removeprefix("--").rpartition(".")
    return f"--{section}{dot}no-{name}"


def _spell(flags: Flags, args: Sequence[str]) -> Iterator[str]:
    """The arguments with truth as tyro wants it: ``--flag`` or ``--no-flag``, but ``--flag True``
    where the value may be None, and True or False among the items of a mapping. What is none of
    these is left for tyro to refuse."""
    booleans = {flag: flag for flag, options in flags.items() if bool in options}
    booleans |= {negated(flag): flag for flag in booleans}
    mappings = {flag for flag, options in flags.items() if _is_mapping(options[0])}
    left: list[str] = []
    for arg in args:
        name, equals, word = arg.partition("=")
        left += [name, word] if equals and name.replace("_", "-") in {*flags, *booleans} else [arg]
    in_mapping = False
    while left:
        arg = left.pop(0)
        name = arg.replace("_", "-")
        if name not in booleans:
            in_mapping = name in mappings or (in_mapping and not arg.startswith("--"))
            yield arg.capitalize() if in_mapping and arg.lower() in ("true", "false") else arg
            if name in flags and left and not in_mapping:
                yield left.pop(0)
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
            yield flag if truth else negated(flag)


def _is_mapping(hint: Any) -> bool:
    origin: Any = typing.get_origin(hint)
    return origin is dict


_READING = ConstructorRegistry()


@_READING.primitive_rule
def _no_value(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[None] | None:
    if info.type is not type(None):
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="none",
        choices=tuple(case(word) for word in NOTHING for case in (str, str.capitalize, str.upper)),
        instance_from_str=lambda _: None,
        is_instance=lambda value: value is None,
        str_from_instance=lambda _: ["none"],
    )


@_READING.primitive_rule
def _whole_number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[int] | None:
    if info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=_to_int,
        is_instance=lambda value: type(value) is int,
        str_from_instance=lambda value: [str(value)],
    )


def _to_int(words: list[str]) -> int:
    value = as_written(words[0], (int,))
    try:
        return value if type(value) is int else int(str(value))
    except ValueError:
        raise ValueError(f"got {shown(words[0])}, expected a whole number") from None


@_READING.struct_rule
def _config(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Configs, with their fields' texts as paragraphs."""
    if not dataclasses.is_dataclass(info.type) or not dataclasses.is_dataclass(info.default):
        return None
    cls = info.type
    hints, texts = typing.get_type_hints(cls, include_extras=True), _texts(cls)
    fields = [
        StructFieldSpec(
            name=field.name,
            type=hints[field.name],
            default=getattr(info.default, field.name),
            helptext=texts.get(field.name),
        )
        for field in dataclasses.fields(cls)
    ]
    return StructConstructorSpec(instantiate=cls, fields=tuple(fields))


@cache
def _texts(cls: type) -> dict[str, str]:
    """Field → the string under it in the class that declares it, each paragraph in a line."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):  # made where no source is kept
            continue
        (declared,) = ast.parse(source).body
        assert isinstance(declared, ast.ClassDef)
        for field, text in zip(declared.body, declared.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                texts[field.target.id] = _paragraphs(inspect.cleandoc(text.value.value))
    return texts


def _unwrapped(doc: str) -> tuple[str, str]:
    """The description in a command's docstring, and the docstring with each argument's text in a
    line of its own, which tyro would break where the source does."""
    text = inspect.cleandoc(doc)
    head, _, arguments = text.partition("\n\nArgs:\n")
    description = _paragraphs(head)
    return description, f"{description}\n\nArgs:\n" + re.sub(r"\n {8,}", " ", arguments)


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
