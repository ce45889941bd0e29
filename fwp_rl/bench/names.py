"""Names of cores and ops without the modules behind them, so that a typo is told before torch is
imported. They stand in the sources, where the registries of both have them from."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from fwp_rl.config import ConfigError
from fwp_rl.registry import canonical, suggestion

__all__ = ["check_names", "core_names", "op_names"]

_PACKAGE = Path(__file__).parents[1]


def core_names() -> list[str]:
    """The registered cores."""
    found = re.compile(r'^@CORES\.register\("(\w+)"\)', re.MULTILINE)
    sources = sorted((_PACKAGE / "cores").glob("*.py"))
    return [name for file in sources for name in found.findall(file.read_text(encoding="utf-8"))]


def op_names() -> list[str]:
    """The ops: each is a package of its name."""
    return sorted(path.parent.name for path in (_PACKAGE / "kernels").glob("*/__init__.py"))


def check_names(flag: str, kind: str, given: Iterable[str], known: Collection[str]) -> None:
    """ConfigError, with a suggestion, unless all are known.

    flag  that they were given by
    kind  what they name
    """
    for name in given:
        if canonical(name) not in known:
            hint = suggestion(name, known)
            raise ConfigError(
                f"{flag}: unknown {kind} {name!r}. {hint + ' ' if hint else ''}"
                f"Known: {', '.join(sorted(known))}"
            )
