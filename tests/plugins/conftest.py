"""Packages that are installed for one test."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from fwp_rl import agents  # noqa: F401  # fills their registry, which is put back as it was
from fwp_rl.cores import CORES
from fwp_rl.envs import ENVS
from fwp_rl.models import ENCODERS
from fwp_rl.runs.config import AGENTS
from fwp_rl.tasks import TASKS

REGISTRIES = {registry.group: registry for registry in (CORES, ENCODERS, ENVS, AGENTS, TASKS)}


class Site:
    """A folder on Python's path, with what pip would have written into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept = {group: dict(registry) for group, registry in REGISTRIES.items()}
        self._modules = set(sys.modules)

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        importlib.invalidate_caches()

    def install(
        self,
        package: str,
        files: Mapping[str, str],
        points: Mapping[str, Mapping[str, str]],
    ) -> None:
        """points  group → name → object"""
        lines = []
        for group, entries in points.items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()), ""]
        folder = f"{package.replace('-', '_')}-1.0.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        about = {"METADATA": metadata, "entry_points.txt": "\n".join(lines)}
        self.write({**files, **{f"{folder}/{name}": text for name, text in about.items()}})

    def forget(self) -> None:
        """Let the process be as it was before any of this was imported."""
        for group, registry in REGISTRIES.items():
            registry._classes.clear()
            registry._classes.update(self._kept[group])
            registry._loaded.clear()
            registry._failed.clear()
        for name in set(sys.modules) - self._modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and Path(file).is_relative_to(self.path):
                del sys.modules[name]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    path = tmp_path / "site"
    path.mkdir()
    monkeypatch.setattr(sys, "path", [str(path), *sys.path])
    monkeypatch.chdir(tmp_path)
    site = Site(path)
    yield site
    site.forget()
    importlib.invalidate_caches()
