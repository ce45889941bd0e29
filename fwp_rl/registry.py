"""A named dict of config classes that answers a typo with a suggestion, and how errors quote."""

import difflib
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

__all__ = ["Registry", "UnknownNameError", "canonical", "named", "shown", "suggestion"]

T = TypeVar("T")
C = TypeVar("C")


class UnknownNameError(KeyError):
    """A name that is in no registry; the message lists what there is."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


def canonical(name: str) -> str:
    """How a registered name is written: ``delta_net`` for ``Delta-Net``."""
    return name.strip().lower().replace("-", "_")


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2
        self.maxstring = self.maxother = 120

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out more than 4,300 digits
        return repr(x) if x.bit_length() < 200 else f"<about {x.bit_length() * 3 // 10:,} digits>"


_short = _Short()


def shown(value: object) -> str:
    """``repr`` in one line of at most some 200 characters: what an error quotes may be long, or
    hold the same list many times over."""
    text = " ".join(_short.repr(value).split("\n"))
    return text if len(text) <= 200 else f"{text[:180]}..."


def named(name: object) -> str:
    """A field, a label or a file as an error names it: without quotes where it is a plain word."""
    plain = isinstance(name, str) and 0 < len(name) <= 120 and name.isprintable()
    return str(name) if plain else shown(name)


def suggestion(given: str, known: Iterable[str]) -> str:
    """``"Did you mean 'x'?"`` when a known name is close to the given one, else ``""``."""
    if len(given) > 120:
        return ""
    by_key = {name.lower().replace("-", "_"): name for name in known}
    close = difflib.get_close_matches(given.lower().replace("-", "_"), by_key, n=1, cutoff=0.5)
    return f"Did you mean {by_key[close[0]]!r}?" if close else ""


class Registry(Mapping[str, type[T]], Generic[T]):
    """Name → config class. ``delta_net``, ``delta-net`` and ``Delta_Net`` are the same name.

    Filled at import by ``@REGISTRY.register("name")`` on the config class, read-only after.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[C]], type[C]]:
        """Class decorator that enters the class under ``name``."""
        key = canonical(name)

        def enter(cls: type[C]) -> type[C]:
            if key in self._classes:
                raise ValueError(f"there are two {self.kind}s named {key!r}")
            self._classes[key] = cls  # type: ignore[assignment]  # C is a T; Python has no way to say so
            return cls

        return enter

    def name_of(self, cls: type) -> str:
        """The name under which a class was entered."""
        for name, known in self._classes.items():
            if known is cls:
                return name
        raise UnknownNameError(f"{cls.__name__} is not a registered {self.kind}")

    def __getitem__(self, name: object) -> type[T]:
        if not isinstance(name, str) or name not in self:
            hint = suggestion(name, self._classes) if isinstance(name, str) else ""
            raise UnknownNameError(
                f"unknown {self.kind} {shown(name)}. {hint + ' ' if hint else ''}"
                f"Known: {', '.join(sorted(self._classes))}"
            )
        return self._classes[canonical(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and canonical(name) in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)
