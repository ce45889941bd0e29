"""Where compiled numba kernels are kept between processes, and what happens when they cannot be.

numba stamps a cached kernel with the hash of the file that defines it, and sees no change in the
helpers that it was compiled from. So the folder is named by a digest of all kernel sources:
``fwp_rl-DIGEST`` in the user's NUMBA_CACHE_DIR or, where that is not set, in
``$XDG_CACHE_HOME/fwp_rl/numba`` (``~/.cache``). The package's own folder is never written to.
Folders of other sources that nobody has used for 30 days are removed.

What is compiled is said to the logger of this module, at level INFO.

A cache that is full, damaged or not writable costs a warning and compiling anew, never a training.
"""

import hashlib
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

import numba
from numba.core.caching import _CacheLocator

from fwp_rl.resources import user_cache

__all__ = ["cached_njit"]

USED: Final = "last_use"
"""The file in a folder of ours whose time of change says when it was used."""
KEPT_DAYS: Final = 30
_log = logging.getLogger(__name__)

ROOT: Final = Path(__file__).resolve().parent
"""The package's kernels."""


def cached_njit(kernel: Callable[..., Any], **options: Any) -> Any:
    """``numba.njit`` with the cache of this module."""
    folder = _folder()
    if folder is None:
        return numba.njit(kernel, **options)
    with _numba_keeps_in(folder):
        dispatcher = numba.njit(kernel, cache=True, **options)
    folder_of, *_ = kernel.__module__.split(".")[-2:]
    _guard(dispatcher._cache, f"{folder_of}.{kernel.__name__.strip('_')}")
    return dispatcher


def _guard(kept: Any, name: str) -> None:
    """Let no error of the cache out of a call of the kernel, and say what its caller waits for."""
    load, save = kept.load_overload, kept.save_overload
    begun: dict[Any, float] = {}

    def guarded_load(signature: Any, context: Any) -> Any:
        found = None
        try:
            found = load(signature, context)
        except Exception:  # whatever unpickling a damaged file raises
            with suppress(OSError):
                kept.flush()  # what is saved next must not be looked for under a damaged index
        if found is None:
            begun[signature] = time.monotonic()
            _log.info("compiling the kernel %s, once on this machine ...", name)
        return found

    def guarded_save(signature: Any, compiled: Any) -> None:
        if signature in begun:
            _log.info("... %s took %.1f s", name, time.monotonic() - begun.pop(signature))
        try:
            save(signature, compiled)
        except OSError as error:
            _warn_once(str(error))

    kept.load_overload, kept.save_overload = guarded_load, guarded_save


@cache
def _folder() -> Path | None:
    """The folder of these sources, there and in use from now on; None where it cannot be."""
    try:
        given = numba.config.CACHE_DIR  # type: ignore[attr-defined]
        parent = Path(given) if given else user_cache() / "numba"
        folder = parent / f"fwp_rl-{_digest()}"
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        (folder / USED).touch()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        _warn_once(str(error))
        return None
    _remove_unused(parent)
    return folder


@cache
def _digest() -> str:
    """Of the names and contents of all kernel sources."""
    digest = hashlib.sha256()
    for path in sorted(ROOT.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _remove_unused(parent: Path) -> None:
    """Only what is ours by its name and holds our file: the parent may be the user's own."""
    oldest = time.time() - 24 * 3600 * KEPT_DAYS
    for used in parent.glob(f"fwp_rl-*/{USED}"):
        with suppress(OSError):
            if used.stat().st_mtime < oldest:
                shutil.rmtree(used.parent, ignore_errors=True)


class KernelLocator(_CacheLocator):
    """Where numba keeps a kernel of this package: under its place in the package.

    numba's own locators name a folder by the file's whole path, so each checkout and environment
    would compile the same kernels again.
    """

    def __init__(self, place: Path, line: int, folder: str) -> None:
        self._line, self._path = line, Path(folder, *place.parent.parts)

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> "KernelLocator | None":
        place, folder = Path(py_file).resolve(), numba.config.CACHE_DIR  # type: ignore[attr-defined]
        if not place.is_relative_to(ROOT):
            return None
        return cls(place.relative_to(ROOT), py_func.__code__.co_firstlineno, folder)

    def get_cache_path(self) -> str:
        return str(self._path)

    def get_source_stamp(self) -> str:
        return _digest()

    def get_disambiguator(self) -> str:
        return str(self._line)


@contextmanager
def _numba_keeps_in(folder: Path) -> Iterator[None]:
    """numba asks where to keep a kernel when it is decorated."""
    locators = f"{__name__}.{KernelLocator.__name__},UserProvidedCacheLocator"
    settings = {"CACHE_DIR": str(folder), "CACHE_LOCATOR_CLASSES": locators}
    before = {name: getattr(numba.config, name, "") for name in settings}
    for name, value in settings.items():
        setattr(numba.config, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(numba.config, name, value)


@cache
def _warn_once(problem: str) -> None:
    warnings.warn(
        f"numba kernels will be compiled anew in every process ({problem}); "
        "point NUMBA_CACHE_DIR at a folder that is writable and has room",
        stacklevel=4,
    )
