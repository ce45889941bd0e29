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
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwp_rl.config import ConfigError
from fwp_rl.registry import canonical, named, shown, suggestion
from fwp_rl.resources import configs_dir
from fwp_rl.runs.yaml_files import SECTIONS, preset_path, read_yaml

__all__ = ["PlainCell", "lay_out", "says_little"]

_KEYS = ("preset", "overrides", "axes")

MOST_CELLS = 10_000
LONGEST_NAME = 200
"""Of a cell, whose directory, log and config are called by it."""


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
            hint = suggestion(key, _KEYS) if isinstance(key, str) else ""
            raise ConfigError(
                f"{source}: {named(key)}: there is no such key. "
                f"{hint or 'Known: ' + ', '.join(_KEYS)}"
            )
    axes = data.get("axes")
    if not isinstance(axes, Mapping) or not axes:
        raise ConfigError(
            f"{source}: axes: got {shown(axes)}, expected a mapping of axes to values"
        )
    overrides = _mapping(data.get("overrides", {}), f"{source}: overrides")
    values = {axis: list(_values(str(axis), axes[axis], source)) for axis in axes}
    count = math.prod(map(len, values.values()))
    if count > MOST_CELLS:
        raise ConfigError(
            f"{source}: axes: make {shown(count)} cells, expected at most {MOST_CELLS:,}"
        )
    presets: dict[str, Mapping[str, Any]] = {}
    cells: dict[str, PlainCell] = {}
    for combination in itertools.product(*values.values()):
        labels = {str(axis): label for axis, (label, _) in zip(values, combination, strict=True)}
        name = _cell_name(labels)
        if len(name) > LONGEST_NAME:
            raise ConfigError(
                f"{source}: axes: a cell would be called {shown(name)}, expected at most "
                f"{LONGEST_NAME} characters; give its values labels"
            )
        if name in cells:
            raise ConfigError(f"{source}: axes: two cells have the name {name}")
        laid = [overrides, *(dict(change) for _, change in combination)]
        preset = data.get("preset")
        for change in laid:
            preset = change.pop("preset", preset) if change is not overrides else preset
        if preset is None:
            raise ConfigError(f"{source}: preset: is missing, expected a name or a .yaml file")
        if not (isinstance(preset, str) and preset in presets):
            presets[str(preset)] = _read_preset(preset_path(preset))
        fields = dict(presets[str(preset)])
        for change in laid:
            fields = _lay_over(fields, change, sections=True)
        if "run_dir" in fields:
            raise ConfigError(f"{source}: run_dir: is the runner's to choose; leave it out")
        cells[name] = PlainCell(name=name, labels=labels, fields=fields)
    return tuple(cells.values())


def _read_preset(path: Path) -> Mapping[str, Any]:
    """The fields of a preset, ready for others to be laid over them. The config of a run names the
    run's directory, which no other run may have, and spells out the rules that its protocol
    settled: as they stand, they would hold against another protocol."""
    fields = {key: value for key, value in read_yaml(path).items() if key != "run_dir"}
    if path.parent == configs_dir() or not isinstance(fields.get("env"), Mapping):
        return fields  # the package's presets spell out none, and need no torch to be read

    from fwp_rl.runs.presets import unsettled

    return unsettled(fields, source=str(path))


def _values(axis: str, given: Any, source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Label and overrides of each value of an axis."""
    where = f"{source}: axes.{axis}"
    if isinstance(given, Mapping):
        for label, change in given.items():
            yield str(label), _mapping(change, f"{where}.{label}")
        return
    if not isinstance(given, list) or not given:
        raise ConfigError(
            f"{where}: got {shown(given)}, expected a list of values, or labels with their "
            "overrides"
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
        raise ConfigError(f"{where}: got {shown(given)}, expected a mapping of fields to values")
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
            known = before.get("name", SECTIONS[key])
            if _word(value.get("name", known)) != _word(known):
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


def _word(name: Any) -> Any:
    return canonical(name) if isinstance(name, str) else name


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
