"""The YAML files that come with the package, found by name, and any other by its path.

Nothing heavy is imported here: a typo and a list are answered before torch is. ``plain_yaml.py``
says what is read of YAML.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fwp_rl.config import ConfigError
from fwp_rl.registry import named, shown, suggestion
from fwp_rl.resources import configs_dir
from fwp_rl.runs.files import CheckpointError, read_limited
from fwp_rl.runs.plain_yaml import parse_yaml

__all__ = [
    "SECTIONS",
    "grid_names",
    "grid_path",
    "preset_names",
    "preset_path",
    "read_yaml",
    "task_names",
    "task_path",
]

MOST_BYTES: Final = 1 << 17
"""Of a YAML file; the longest grid that comes with the package takes a fiftieth."""

SECTIONS: Final = {
    "env": "atari",
    "core": "delta_net",
    "encoder": "impala_resnet",
    "task": None,
}
"""The fields of a training config whose class is chosen by name, and which class it is where none
is named, if that is allowed; ``presets.REGISTRIES`` knows the classes."""

TASKS: Final = "tasks/"
"""How the name of a sequence task's preset begins where it could be an agent's."""


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return _names(configs_dir())


def preset_path(name_or_path: str | Path) -> Path:
    """Where a preset lies: ``recall``, ``tasks/copy``; ConfigError for a name that there is not."""
    if isinstance(name_or_path, str) and (name := name_or_path.removeprefix(TASKS)) != name_or_path:
        return task_path(name)
    return _path("preset", configs_dir(), name_or_path)


def task_names() -> list[str]:
    """Names of the presets of sequence tasks that come with the package."""
    return _names(configs_dir() / "tasks")


def task_path(name_or_path: str | Path) -> Path:
    """Where the preset of a sequence task lies: ``copy``; ConfigError for a name that there is
    not."""
    return _path("task", configs_dir() / "tasks", name_or_path)


def grid_names() -> list[str]:
    """Names of the ablations that come with the package."""
    return _names(configs_dir() / "ablations")


def grid_path(name_or_path: str | Path) -> Path:
    """Where an ablation lies; ConfigError for a name that there is not."""
    return _path("ablation", configs_dir() / "ablations", name_or_path)


def read_yaml(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file, or a ConfigError. No key is given twice in it, and nothing is
    other than it looks."""
    try:
        text = read_limited(path, MOST_BYTES).decode()
    except OSError as error:
        raise ConfigError(f"{named(str(path))}: cannot be read: {error.strerror}") from None
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
    except ValueError:  # a NUL in the path, or no UTF-8
        raise ConfigError(f"{named(str(path))}: is not valid YAML: it is no UTF-8 text") from None
    data = parse_yaml(text, source=str(path))
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path}: expected a mapping of fields, found {type(data).__name__}")
    return data


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _path(kind: str, folder: Path, name_or_path: str | Path) -> Path:
    given: Any = name_or_path
    if not isinstance(given, (str, Path)):
        raise ConfigError(
            f"{kind}: got {shown(given)}, expected a name or the path of a .yaml file"
        )
    path = Path(given)
    if path.suffix in (".yaml", ".yml"):
        return path
    names, name = _names(folder), str(given).replace("-", "_")
    if name not in names:
        hint = suggestion(str(given), names)
        raise ConfigError(
            f"unknown {kind} {shown(str(given))}. {hint + ' ' if hint else ''}"
            f"Known: {', '.join(names)}; or give the path of a .yaml file"
        )
    return folder / f"{name}.yaml"
