"""What a report compares: a label for each run, in as few words as tell the groups apart.

By itself a report compares cores: a group is a core, or the labels of an ablation's axes, or the
NAME that a path was given with. Runs of one group and task whose configs differ are told apart by
the fewest fields that do it; a value that most of them have is not named. ``--by`` groups by the
fields that it names instead, whatever else differs, which is then said.
"""

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

from fwp_rl.ablation.layout import says_little
from fwp_rl.config import ConfigError
from fwp_rl.registry import shown, suggestion
from fwp_rl.reports.sources import plain
from fwp_rl.runs.config import RunConfig
from fwp_rl.runs.presets import bookkeeping, experiment

__all__ = ["Groupable", "compared", "differing", "group"]

LONGEST_LABEL = 200
_LONGEST_VALUE = 40
_SECTIONS = ("core", "env", "encoder", "task")
_SPEAK = ("agent", *(f"{section}.name" for section in _SECTIONS))
"""Fields whose values say what they are of."""
_TASK_AXES = re.compile(r"task|game|games|preset|env(\..*)?")
_PREFERRED = ("core.name", "agent", "core.", "encoder.", "env.", "task.")
"""Which fields tell groups apart, where several do it equally well."""
_LAST = "total_steps"
"""What tells groups apart only where nothing else does."""
_ABSENT = object()
"""The value of a field that a config does not have."""
_TOLD = 3
"""Groups that a note names, and fields of each."""


class Groupable(Protocol):
    """What a run's label depends on.

    axes   its labels in an ablation
    given  the NAME of NAME=PATH
    """

    @property
    def config(self) -> RunConfig: ...
    @property
    def task(self) -> str: ...
    @property
    def axes(self) -> Mapping[str, str]: ...
    @property
    def given(self) -> str | None: ...


def group(
    runs: Sequence[Groupable], by: Sequence[str] | None = None
) -> tuple[list[str], list[str]]:
    """The label of each run, and what has to be said of them.

    by  fields of configs, or axes of an ablation, that make the groups

    ConfigError for a field that no run has.
    """
    if by is None:
        return _told_apart(runs), []
    return _by_fields(runs, by)


def compared(axes: Mapping[str, str]) -> str:
    """What an ablation compares in a run, by its labels there; "" for a run of none."""
    return ", ".join(
        f"{_last(axis)} {label}" if says_little(label) else label
        for axis, label in axes.items()
        if axis != "seed" and not _TASK_AXES.fullmatch(axis)
    )


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields that have several values. A field that only some have, since they have another
    core, agent or environment, is no difference beside that one."""
    names = dict.fromkeys(name for config in configs for name in config)
    values = {name: {repr(c[name]) for c in configs if name in c} for name in names}
    return [name for name in names if len(values[name]) > 1]


def _told_apart(runs: Sequence[Groupable]) -> list[str]:
    bases = [_base(run) for run in runs]
    groups: dict[tuple[str, str], list[int]] = {}
    for index, (base, run) in enumerate(zip(bases, runs, strict=True)):
        groups.setdefault((base, run.task), []).append(index)
    labels = list(bases)
    for members in groups.values():
        configs = [experiment(runs[index].config, without=("seed",)) for index in members]
        kinds = list({repr(sorted(config.items())): config for config in configs}.values())
        fields = _fewest(kinds)
        usual = {name: _usual([kind.get(name, _ABSENT) for kind in kinds]) for name in fields}
        others = [name for name in fields if name != _LAST]
        alike = Counter(_values(kind, others) for kind in kinds)
        for index, config in zip(members, configs, strict=True):
            known = others if alike[_values(config, others)] == 1 else fields
            told = [name for name in known if repr(config.get(name, _ABSENT)) != usual[name]]
            words = _words(config, told, absent=True)
            labels[index] += plain(f" ({', '.join(words)})") if words else ""
    return labels


def _base(run: Groupable) -> str:
    label = run.given or compared(run.axes) or experiment(run.config)["core.name"]
    return str(label)[:LONGEST_LABEL]


def _usual(values: Sequence[Any]) -> str | None:
    """The value that more than half have, as ``repr`` has it: it needs no words."""
    (most, count), *_ = Counter(map(repr, values)).most_common(1)
    return most if 2 * count > len(values) else None


def _fewest(kinds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Fields that tell configs apart, no two of which are the same: each the one that splits most
    of what is left; how long they were trained only where nothing else does."""
    names = sorted(dict.fromkeys(name for kind in kinds for name in kind), key=_rank)

    def parts(fields: Sequence[str]) -> int:
        return len({_values(kind, fields) for kind in kinds})

    chosen: list[str] = []
    for some in ([name for name in names if name != _LAST], [_LAST]):
        while (apart := parts(chosen)) < len(kinds):
            best = max(some, key=lambda name: parts([*chosen, name]))
            if parts([*chosen, best]) == apart:
                break
            chosen.append(best)
    return chosen


def _values(config: Mapping[str, Any], fields: Sequence[str]) -> tuple[str, ...]:
    return tuple(repr(config.get(name, _ABSENT)) for name in fields)


def _rank(name: str) -> int:
    for place, preferred in enumerate(_PREFERRED):
        if name == preferred or (preferred.endswith(".") and name.startswith(preferred)):
            return place
    return len(_PREFERRED)


def _by_fields(runs: Sequence[Groupable], by: Sequence[str]) -> tuple[list[str], list[str]]:
    known = [{**run.axes, **bookkeeping(run.config), **experiment(run.config)} for run in runs]
    fields = [_field(name, known) for name in by]
    values = [tuple(repr(config.get(name)) for name in fields) for config in known]
    # a field that is the same in all that are compared, such as a game, says nothing in a label
    together: dict[Hashable, set[tuple[str, ...]]] = {}
    for run, value in zip(runs, values, strict=True):
        together.setdefault((run.task, run.given), set()).add(value)
    telling = [
        name
        for place, name in enumerate(fields)
        if any(len({value[place] for value in some}) > 1 for some in together.values())
    ]
    labels = []
    for run, config in zip(runs, known, strict=True):
        words = _words(config, telling)
        if not words and run.given is None:
            words = _words(config, fields) or [_base(run)]
        parts = [*filter(None, [run.given]), *words]
        labels.append(plain(", ".join(parts))[:LONGEST_LABEL])
    return labels, _pooled(runs, labels)


def _field(given: str, known: Sequence[Mapping[str, Any]]) -> str:
    """The field as configs have it: ``core`` is ``core.name``."""
    names = dict.fromkeys(name for config in known for name in config)
    wanted = given.strip().replace("-", "_")
    for name in (f"{wanted}.name", wanted, given.strip()):
        if name in names:
            return name
    hint = suggestion(wanted, names) or f"Known: {', '.join(names)}"
    raise ConfigError(f"--by: got {shown(given)}, and no run has such a field. {hint}")


def _pooled(runs: Sequence[Groupable], labels: Sequence[str]) -> list[str]:
    """Which groups hold runs of several experiments, and in what these differ."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run, label in zip(runs, labels, strict=True):
        config = experiment(run.config, without=("seed",))
        groups.setdefault((label, run.task), []).append(config)
    told = []
    for (label, task), configs in groups.items():
        if fields := differing(configs):
            more = ", ..." if len(fields) > _TOLD else ""
            told.append(f"{label} on {task} in {', '.join(fields[:_TOLD])}{more}")
    if not told:
        return []
    rest = f"; and {len(told) - _TOLD} more groups" if len(told) > _TOLD else ""
    return [f"Groups hold runs that differ in more than the seed: {'; '.join(told[:_TOLD])}{rest}."]


def _words(config: Mapping[str, Any], fields: Sequence[str], *, absent: bool = False) -> list[str]:
    """``lstm``, ``heads 4``, ``encoder.layers 2`` where two fields end alike.

    absent  ``no heads`` for a field that the config has not; else there is no word of it
    """
    lasts = [_last(name) for name in fields]
    words = []
    for name, last in zip(fields, lasts, strict=True):
        axis = last if lasts.count(last) == 1 else name
        if name not in config:
            words += [f"no {axis}"] if absent else []
            continue
        value = _value(config[name])
        words.append(value if name in _SPEAK else f"{axis} {value}")
    return words


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if type(value) in (int, float):
        return f"{value:,}"
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _last(name: str) -> str:
    return name.rpartition(".")[2]
