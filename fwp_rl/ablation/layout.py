"""A grid of training runs as YAML, and the cells that it means.

    preset: recall                       # a preset's name, or the path of a .yaml file
    overrides: {total_steps: 200_000}    # for all cells; fields as a preset has them
    axes:
      core: [feedforward, lstm]          # a list: values of the field of that name ...
      core.gradient_horizon: [1, null]   # ... which may lie inside a section
      task:                              # a mapping: a label for any overrides
        Catch: {env: {name: classic, task: Catch-v0}, encoder: mlp}
        recall: {env: {name: recall, max_delay: 16}, total_steps: 400_000}
      seed: [1, 2, 3, 4, 5]

A cell is one value of each axis. Overrides are laid over the preset in the order of the file:
``overrides`` first, then axis by axis. A section that changes its name drops the old one's options.
The axis ``preset`` chooses the preset itself.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwp_rl.config import ConfigError
from fwp_rl.registry import canonical, suggestion
from fwp_rl.resources import configs_dir
from fwp_rl.runs.yaml_files import SECTIONS, preset_path, read_yaml

__all__ = ["PlainCell", "lay_out", "says_little"]

_KEYS = ("preset", "overrides", "axes")


@dataclass(frozen=True, kw_only=True)
class PlainCell:
    """One training run of a grid, as plain data."""

    name: str
    """Of its run directory: the labels, joined."""
    labels: Mapping[str, str]
    """Axis → label of its value."""
    fields: Mapping[str, Any]
    """Of its config, as a preset has them."""


def lay_out(data: Mapping[str, Any], *, source: str) -> tuple[PlainCell, ...]:
    """The cells of a grid from plain data. ConfigError for what is wrong in the grid itself; what
    the fields hold is not looked at."""
    for key in data:
        if key not in _KEYS:
            hint = suggestion(str(key), _KEYS)
            raise ConfigError(
                f"{source}: {key}: there is no such key. {hint or 'Known: ' + ', '.join(_KEYS)}"
            )
    axes = data.get("axes")
    if not isinstance(axes, Mapping) or not axes:
        raise ConfigError(f"{source}: axes: got {axes!r}, expected a mapping of axes to values")
    overrides = _mapping(data.get("overrides", {}), f"{source}: overrides")
    values = {axis: list(_values(str(axis), axes[axis], source)) for axis in axes}
    presets: dict[Any, Mapping[str, Any]] = {}
    cells: dict[str, PlainCell] = {}
    for combination in itertools.product(*values.values()):
        labels = {str(axis): label for axis, (label, _) in zip(values, combination, strict=True)}
        name = _cell_name(labels)
        if name in cells:
            raise ConfigError(f"{source}: axes: two cells have the name {name}")
        laid = [overrides, *(dict(change) for _, change in combination)]
        preset = data.get("preset")
        for change in laid:
            preset = change.pop("preset", preset) if change is not overrides else preset
        if preset is None:
            raise ConfigError(f"{source}: preset: is missing, expected a name or a .yaml file")
        if preset not in presets:
            presets[preset] = _read_preset(preset_path(preset))
        fields = dict(presets[preset])
        for change in laid:
            fields = _lay_over(fields, change, sections=True)
        if "run_dir" in fields:
            raise ConfigError(f"{source}: run_dir: is the runner's to choose; leave it out")
        cells[name] = PlainCell(name=name, labels=labels, fields=fields)
    return tuple(cells.values())


def _read_preset(path: Path) -> Mapping[str, Any]:
    """The fields of a preset, ready for others to be laid over them. The config of a run spells out
    the rules that its protocol settled: as they stand, they would hold against another protocol."""
    fields = read_yaml(path)
    env = fields.get("env")
    if path.parent == configs_dir() or not isinstance(env, Mapping) or "name" not in env:
        return fields  # the package's presets spell out none, and need no torch to be read

    from fwp_rl.runs.presets import config_to_dict, env_config_from_dict

    config = env_config_from_dict(env, source=f"{path}: env")
    return {**fields, "env": config_to_dict(config, settled=False)}


def _values(axis: str, given: Any, source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Label and overrides of each value of an axis."""
    where = f"{source}: axes.{axis}"
    if isinstance(given, Mapping):
        for label, change in given.items():
            yield str(label), _mapping(change, f"{where}.{label}")
        return
    if not isinstance(given, list) or not given:
        raise ConfigError(
            f"{where}: got {given!r}, expected a list of values, or labels with their overrides"
        )
    for value in given:
        nested: Any = value
        for key in reversed(axis.split(".")):
            nested = {key: nested}
        label = "none" if value is None else str(value)
        if isinstance(value, Mapping):
            label = str(value.get("name", value))
        yield label, nested


def _mapping(given: Any, where: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: got {given!r}, expected a mapping of fields to values")
    return dict(given)


def _lay_over(
    below: Mapping[str, Any], above: Mapping[str, Any], *, sections: bool = False
) -> dict[str, Any]:
    """The fields of both; where both have one, mappings are laid over each other in turn."""
    fields = dict(below)
    for key, value in above.items():
        before = fields.get(key)
        if sections and key in SECTIONS:
            before, value = _section(before), _section(value)
            known = str(before.get("name", ""))
            if canonical(str(value.get("name", known))) != canonical(known):
                before = {}
            fields[key] = {**before, **value}
        elif isinstance(before, Mapping) and isinstance(value, Mapping):
            fields[key] = _lay_over(before, value)
        else:
            fields[key] = value
    return fields


def _section(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    return {} if value is None else {"name": value}


def says_little(label: str) -> bool:
    """Whether a label means nothing without its axis: a number, none, a truth value."""
    return re.fullmatch(r"[\d_.eE+-]+|none|True|False", label) is not None


def _cell_name(labels: Mapping[str, str]) -> str:
    """``lstm-Catch-s1``: fit for a file name, numbers with the last word of their axis."""
    parts = []
    for axis, label in labels.items():
        word = axis.rpartition(".")[2] if axis != "seed" else "s"
        # a number with a minus (-1, 1e-05) never got the word, and folders that lie there now are
        # to be found again; two cells of one name are refused
        parts.append(f"{word}{label}" if says_little(label) and "-" not in label else label)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(parts)).strip(".-") or "cell"
