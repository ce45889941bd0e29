"""How a check fails, with or without ``python -O`` and pytest."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["expect", "named_check"]


def expect(holds: object, otherwise: str) -> None:
    """AssertionError with this text unless it is true."""
    if not holds:
        raise AssertionError(otherwise)


@contextmanager
def named_check(name: str) -> Iterator[None]:
    """Whatever is raised inside is an AssertionError that begins with the check's name."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        raise AssertionError(f"{name}: {kind}{error}") from error
