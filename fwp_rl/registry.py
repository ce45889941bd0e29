"""A named dict of config classes that answers a typo with a suggestion."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

__all__ = ["Registry", "UnknownNameError", "canonical", "suggestion"]

T = TypeVar("T")
C = TypeVar("C")


class UnknownNameError(KeyError):
    """A name that is in no registry; the message lists what there is."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


def canonical(name: str) -> str:
    """How a registered name is written: ``delta_net`` for ``Delta-Net``."""
    return name.strip().lower().replace("-", "_")


def suggestion(given: str, known: Iterable[str]) -> str:
    """``"Did you mean 'x'?"`` when a known name is close to the given one, else ``""``."""
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
            hint = suggestion(str(name), self._classes)
            raise UnknownNameError(
                f"unknown {self.kind} {name!r}. {hint + ' ' if hint else ''}"
                f"Known: {', '.join(sorted(self._classes))}"
            )
        return self._classes[canonical(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and canonical(name) in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)
