"""A grid of training runs as YAML, and the cells that it means.

    preset: recall                       # a preset's name, or the path of a .yaml file
    overrides: {total_steps: 200_000}    # for all cells; fields as a preset has them
    axes:
      core: [feedforward, lstm]          # a list: values of the field of that name ...
      core.gradient_horizon: [1, none]   # ... which may lie inside a section
      task:                              # a mapping: a label for any overrides
        Catch: {env: {name: classic, task: Catch-v0}, encoder: mlp}
        recall: {env: {name: recall, max_delay: 16}, total_steps: 400_000}
      seed: [1, 2, 3, 4, 5]
    exclude:                             # combinations that are no cells
      - {core: lstm, task: Catch, seed: [4, 5]}

A cell is one value of each axis. Overrides are laid over the preset in the order of the file:
``overrides`` first, then axis by axis. A section that changes its name drops the old one's options.
The axis ``preset`` chooses the preset itself. Where an axis names a field that some of the classes
lack (feedforward has no ``gradient_horizon``), these have one cell in place of one for each value,
without that label.
"""

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from fwp_rl.config import NOTHING, ConfigError
from fwp_rl.registry import canonical, named, shown, suggestion
from fwp_rl.resources import configs_dir
from fwp_rl.runs.yaml_files import SECTIONS, preset_path, read_yaml

__all__ = ["PlainCell", "lay_out", "says_little"]

_KEYS = ("preset", "overrides", "axes", "exclude")

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


Choice: TypeAlias = Mapping[str, tuple[str, Mapping[str, Any]]]
"""Axis → label and overrides of one of its values."""


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
    values = {str(axis): list(_values(str(axis), axes[axis], source)) for axis in axes}
    count = math.prod(map(len, values.values()))
    if count > MOST_CELLS:
        raise ConfigError(
            f"{source}: axes: make {shown(count)} cells, expected at most {MOST_CELLS:,}"
        )
    excluded = list(_exclusions(data.get("exclude"), values, source))
    choices = [
        dict(zip(values, combination, strict=True))
        for combination in itertools.product(*values.values())
    ]
    choices = [choice for choice in choices if not any(map(_holds_for(choice), excluded))]
    if not choices:
        raise ConfigError(f"{source}: exclude: leaves out every cell")
    lay = _Layer(data, source)
    laid = [lay.over(choice) for choice in choices]
    plain = [str(axis) for axis, given in axes.items() if not isinstance(given, Mapping)]
    lacking = _lacking(plain, laid)
    cells: dict[str, PlainCell] = {}
    for choice, fields, missing in zip(choices, laid, lacking, strict=True):
        kept = {axis: value for axis, value in choice.items() if axis not in missing}
        cell = _cell(kept, lay.over(kept) if missing else fields, source)
        if cell.name in cells and not (missing and cells[cell.name] == cell):
            raise ConfigError(f"{source}: axes: two cells have the name {cell.name}")
        _check_order(cell, [axis for axis in plain if axis in kept], kept, source)
        cells[cell.name] = cell
    return tuple(cells.values())


def _cell(choice: Choice, fields: Mapping[str, Any], source: str) -> PlainCell:
    labels = {axis: label for axis, (label, _) in choice.items()}
    name = _cell_name(labels)
    if len(name) > LONGEST_NAME:
        raise ConfigError(
            f"{source}: axes: a cell would be called {shown(name)}, expected at most "
            f"{LONGEST_NAME} characters; give its values labels"
        )
    if "run_dir" in fields:
        raise ConfigError(f"{source}: run_dir: is the runner's to choose; leave it out")
    return PlainCell(name=name, labels=labels, fields=fields)


class _Layer:
    """Lays a choice over a grid's overrides, and these over its preset, which is read once."""

    def __init__(self, data: Mapping[str, Any], source: str) -> None:
        self._source = source
        self._preset = data.get("preset")
        self._overrides = _mapping(data.get("overrides", {}), f"{source}: overrides")
        self._read: dict[str, Mapping[str, Any]] = {}

    def over(self, choice: Choice) -> dict[str, Any]:
        """The fields of a config."""
        preset, laid = self._preset, [self._overrides]
        for _, change in choice.values():
            fields = dict(change)
            preset = fields.pop("preset", preset)
            laid.append(fields)
        if preset is None:
            raise ConfigError(
                f"{self._source}: preset: is missing, expected a name or a .yaml file"
            )
        if not (isinstance(preset, str) and preset in self._read):
            self._read[str(preset)] = _read_preset(preset_path(preset))
        fields = dict(self._read[str(preset)])
        for above in laid:
            fields = _lay_over(fields, above, sections=True)
        return fields


def _lacking(axes: Sequence[str], laid: Sequence[Mapping[str, Any]]) -> Iterator[Collection[str]]:
    """For each of the laid configs the axes whose field it lacks, though others have it. A field
    that none has is left for the config to refuse."""
    doubtful = [axis for axis in axes if len({_owner(axis, fields) for fields in laid}) > 1]
    if not doubtful:
        yield from ((),) * len(laid)
        return

    from fwp_rl.runs.presets import has_field

    has = {axis: [has_field(fields, axis) for fields in laid] for axis in doubtful}
    for number in range(len(laid)):
        yield {axis for axis, found in has.items() if not found[number] and any(found)}


def _owner(axis: str, fields: Mapping[str, Any]) -> Any:
    """What the class depends on that has an axis' field or not: a section's name, else the
    agent."""
    section, dot, _ = axis.partition(".")
    if dot and section in SECTIONS:
        return shown(_word(_section(fields.get(section)).get("name", SECTIONS[section])))
    return shown(_word(fields.get("agent")))


def _check_order(cell: PlainCell, axes: Iterable[str], choice: Choice, source: str) -> None:
    """ConfigError where an axis has undone what one before it says: it has chosen another class
    for the section, which starts from its own defaults."""
    for axis in axes:
        section, dot, rest = axis.partition(".")
        if not dot or section not in SECTIONS:
            continue
        found: Any = _section(cell.fields.get(section))
        asked: Any = choice[axis][1][section]
        for key in rest.split("."):
            found = found.get(key, ...) if isinstance(found, Mapping) else ...
            asked = asked[key]
        if found is ... or found != asked:
            raise ConfigError(
                f"{source}: axes.{axis}: is undone by a later axis, which chooses another "
                f"{section}; put {axis} after it"
            )


def _exclusions(
    given: Any, values: Mapping[str, Sequence[tuple[str, Any]]], source: str
) -> Iterator[Mapping[str, Collection[str]]]:
    """What ``exclude`` leaves out, each as axis → labels, as ``_word`` has them."""
    where = f"{source}: exclude"
    if given is not None and not isinstance(given, list):
        raise ConfigError(f"{where}: got {shown(given)}, expected a list of {{axis: value, ...}}")
    for number, item in enumerate(given or (), start=1):
        if not isinstance(item, Mapping) or not item:
            raise ConfigError(f"{where}: got {shown(item)}, expected {{axis: value, ...}}")
        excluded: dict[str, Collection[str]] = {}
        for axis, wanted in item.items():
            place = f"{where}: {number}: {named(axis)}"
            if axis not in values:
                hint = suggestion(str(axis), values)
                raise ConfigError(
                    f"{place}: there is no such axis. {hint or 'Known: ' + ', '.join(values)}"
                )
            labels = [label for label, _ in values[axis]]
            known = {_word(label) for label in labels}
            wanted = [_label(value) for value in (wanted if isinstance(wanted, list) else [wanted])]
            for label in wanted:
                if _word(label) not in known:
                    hint = suggestion(label, labels)
                    raise ConfigError(
                        f"{place}: got {shown(label)}, expected values of the axis. "
                        f"{hint or 'Known: ' + ', '.join(labels[:20])}"
                    )
            excluded[str(axis)] = {_word(label) for label in wanted}
        yield excluded


def _holds_for(choice: Choice) -> Callable[[Mapping[str, Collection[str]]], bool]:
    def holds(exclusion: Mapping[str, Collection[str]]) -> bool:
        return all(_word(choice[axis][0]) in labels for axis, labels in exclusion.items())

    return holds


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
        yield _label(value), nested


def _label(value: Any) -> str:
    """Of a value in a list: ``none`` for whatever word stands for no value."""
    if isinstance(value, Mapping):
        return str(value.get("name", value))
    text = str(value)
    return "none" if value is None or text.lower() in NOTHING else text


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
