"""The YAML files that come with the package, found by name, and any other by its path.

Nothing heavy is imported here: a typo and a list are answered before torch is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from fwp_rl.config import ConfigError
from fwp_rl.registry import suggestion
from fwp_rl.resources import configs_dir

__all__ = ["SECTIONS", "grid_names", "grid_path", "preset_names", "preset_path", "read_yaml"]

SECTIONS: Final = ("env", "core", "encoder")
"""The fields of a training config whose class is chosen by name; ``presets.REGISTRIES`` knows the
classes."""


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return _names(configs_dir())


def preset_path(name_or_path: str | Path) -> Path:
    """Where a preset lies; ConfigError for a name that there is not."""
    return _path("preset", configs_dir(), name_or_path)


def grid_names() -> list[str]:
    """Names of the ablations that come with the package."""
    return _names(configs_dir() / "ablations")


def grid_path(name_or_path: str | Path) -> Path:
    """Where an ablation lies; ConfigError for a name that there is not."""
    return _path("ablation", configs_dir() / "ablations", name_or_path)


def read_yaml(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file, or a ConfigError."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}") from None
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path}: expected a mapping of fields, found {type(data).__name__}")
    return data


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _path(kind: str, folder: Path, name_or_path: str | Path) -> Path:
    given: Any = name_or_path
    if not isinstance(given, (str, Path)):
        raise ConfigError(f"{kind}: got {given!r}, expected a name or the path of a .yaml file")
    path = Path(given)
    if path.suffix in (".yaml", ".yml"):
        return path
    names, name = _names(folder), str(given).replace("-", "_")
    if name not in names:
        hint = suggestion(str(given), names)
        raise ConfigError(
            f"unknown {kind} {str(given)!r}. {hint + ' ' if hint else ''}"
            f"Known: {', '.join(names)}; or give the path of a .yaml file"
        )
    return folder / f"{name}.yaml"
