"""Configs as YAML: presets, the config.yaml of a run, the config inside a policy folder.

A section whose class is chosen by name carries it: ``core: {name: lstm, hidden_size: 128}``, or
just ``core: lstm``. Everything else is the field's value. Unknown keys, wrong types and values
out of range raise ConfigError as ``source: path.to.field: what was given, what is expected``.
"""

import dataclasses
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fwp_rl.config import ConfigError, as_written, is_bookkeeping, union_members
from fwp_rl.cores import CORES, CoreConfig
from fwp_rl.envs import ENVS, EnvConfig
from fwp_rl.models.actions import ACTION_RULES, ActionRule
from fwp_rl.models.base import ENCODERS, EncoderConfig
from fwp_rl.models.policy import PolicyConfig
from fwp_rl.registry import Registry, UnknownNameError, named, shown, suggestion
from fwp_rl.runs.config import AGENTS, RunConfig, TrainConfig
from fwp_rl.runs.yaml_files import SECTIONS, preset_path, read_yaml
from fwp_rl.tasks import TASKS, TaskConfig

__all__ = [
    "REGISTRIES",
    "action_rule_from_dict",
    "bookkeeping",
    "config_from_dict",
    "config_to_dict",
    "env_config_from_dict",
    "experiment",
    "first_change",
    "has_field",
    "having",
    "load_preset",
    "policy_config_from_dict",
    "preset_env",
    "task_config_from_dict",
    "unsettled",
]

D = TypeVar("D")

REGISTRIES: dict[type, Registry[Any]] = {
    ActionRule: ACTION_RULES,
    CoreConfig: CORES,
    EncoderConfig: ENCODERS,
    EnvConfig: ENVS,
    TaskConfig: TASKS,
}
"""Base class of a section → the registry that knows its classes by name."""

_SECTIONS: dict[str, Registry[Any]] = {
    "core": CORES,
    "encoder": ENCODERS,
    "env": ENVS,
    "task": TASKS,
}


def load_preset(name_or_path: str | Path) -> RunConfig:
    """A preset by its name, a sequence task's as ``tasks/copy``, or any YAML file by its path
    (``./mine.yaml``)."""
    path = preset_path(name_or_path)
    return config_from_dict(read_yaml(path), source=str(path))


def config_from_dict(data: Mapping[str, Any], *, source: str) -> RunConfig:
    """An agent's config from plain data; ``agent:`` names the agent."""
    fields = dict(data)
    agent = fields.pop("agent", None)
    if agent is None:
        raise ConfigError(
            f"{source}: agent: is missing, expected one of {', '.join(AGENTS.names())}"
        )
    return _build(_look_up(AGENTS, agent, f"{source}: agent"), fields, source, "")


def policy_config_from_dict(data: Mapping[str, Any], *, source: str = "policy") -> PolicyConfig:
    """A policy's config from plain data."""
    return _build(PolicyConfig, data, source, "")


def env_config_from_dict(data: Mapping[str, Any], *, source: str = "env") -> EnvConfig:
    """An environment's config from plain data; ``name:`` names the family."""
    config: EnvConfig = _build_section(ENVS, None, data, source, "")
    return config


def action_rule_from_dict(data: Mapping[str, Any], *, source: str = "actions") -> ActionRule:
    """An action rule from plain data; ``name:`` names it."""
    rule: ActionRule = _build_section(ACTION_RULES, None, data, source, "")
    return rule


def task_config_from_dict(data: Mapping[str, Any], *, source: str = "task") -> TaskConfig:
    """A sequence task's config from plain data; ``name:`` names the task."""
    config: TaskConfig = _build_section(TASKS, None, data, source, "")
    return config


def preset_env(name_or_path: str | Path) -> EnvConfig:
    """The environment of an agent's preset, or of a run's config.yaml, whichever agent it is of.
    ConfigError for one of a sequence task, which has none."""
    path = preset_path(name_or_path)
    fields = read_yaml(path)
    if "task" in fields:
        raise ConfigError(f"{path}: is of a sequence task, which has no environment")
    return _env(fields.get("env", {}), str(path))


def _env(data: Any, source: str) -> EnvConfig:
    """The section ``env`` of a training config."""
    env: EnvConfig = _build_section(ENVS, type(TrainConfig().env), data, source, "env.")
    return env


def unsettled(fields: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """The fields of a training config, with None for each rule of its environment that is as the
    environment's protocol has it: ready for another protocol to be laid over them."""
    env = _env(fields["env"], source)
    return {**fields, "env": config_to_dict(env, settled=False)}


def config_to_dict(
    config: Any, as_type: type | None = None, *, settled: bool = True
) -> dict[str, Any]:
    """Plain data that rebuilds the config: the inverse of the ``*_from_dict`` functions.

    as_type  keeps the fields of that base class alone: a training config is a policy config
    settled  write out the rules that an environment's protocol settles, as a stored config needs;
             else they are None, and another protocol may be laid over them
    """
    data: dict[str, Any] = {}
    for registry in (AGENTS, *REGISTRIES.values()):
        if as_type is None and type(config) in registry.values():
            data["agent" if registry is AGENTS else "name"] = registry.name_of(type(config))
    for field in dataclasses.fields(as_type or config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            value = config_to_dict(value, settled=settled)
        data[field.name] = list(value) if isinstance(value, tuple) else value
    if settled and isinstance(config, EnvConfig):
        data |= config.settled()
    return data


def experiment(config: RunConfig, *, without: Collection[str] = ()) -> dict[str, Any]:
    """What makes a run the experiment that it is: field → value, a section's fields joined to its
    name by a dot (``core.heads``), without fields that are bookkeeping and those in ``without``."""
    return _flat(config, lambda owner, name: name not in without and not _marked(owner, name))


def bookkeeping(config: RunConfig) -> dict[str, Any]:
    """The other fields, those that say how and where it runs; named in the same way."""
    whole, kept = _flat(config, lambda *_: True), experiment(config)
    return {name: value for name, value in whole.items() if name not in kept}


def first_change(
    before: RunConfig, now: RunConfig, *, without: Collection[str] = ()
) -> tuple[str, Any, Any] | None:
    """The first field of the experiment that is another now, its old value (None where it had no
    such field) and its new one; None where both are the same experiment."""
    old, new = experiment(before, without=without), experiment(now, without=without)
    for name, value in new.items():  # fields are gone only with their section, whose name is there
        if name not in old or old[name] != value:
            return name, old.get(name), value
    return None


def _flat(config: Any, keep: Callable[[Any, str], bool], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config_to_dict(config).items():
        if not keep(config, name):
            continue
        inner = getattr(config, name, None)
        if dataclasses.is_dataclass(inner):
            flat |= _flat(inner, keep, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _marked(owner: Any, name: str) -> bool:
    """``agent`` and a section's ``name`` are no fields."""
    fields = {field.name for field in dataclasses.fields(owner)}
    return name in fields and is_bookkeeping(type(owner), name)


def having(registry: Registry[Any], field: str, section: str) -> str:
    """Which classes of a section have a field: ``It is an option of core:delta_net, gtrxl``, or ""
    where none has it."""
    owners = [
        name
        for name, cls in registry.items()
        if field in {each.name for each in dataclasses.fields(cls)}
    ]
    return f"It is an option of {section}:{', '.join(owners)}" if owners else ""


def has_field(fields: Mapping[str, Any], path: str) -> bool:
    """Whether a training config with these fields has a field of that path (``core.heads``),
    whatever its value. True where that cannot be told: building the config says what is wrong."""
    cls, data = AGENTS.get(fields.get("agent", "")), fields
    for name in path.split("."):
        if cls is None:
            return True
        hints = typing.get_type_hints(cls)
        if name not in hints:
            return False
        inner: Any = data.get(name, {})
        data = inner if isinstance(inner, Mapping) else {"name": inner}
        registry = REGISTRIES.get(hints[name])
        if registry is not None:
            chosen: Any = data.get("name", SECTIONS[name])
            cls = registry.get(chosen)
        else:
            cls = hints[name] if dataclasses.is_dataclass(hints[name]) else None
    return True


def _build(cls: type[D], data: Mapping[str, Any], source: str, path: str) -> D:
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # D is a dataclass
    values = {}
    for key, value in data.items():
        if key not in fields:
            hint = _hint(key, fields, path) if isinstance(key, str) else ""
            raise ConfigError(
                f"{source}: {path}{named(key)}: there is no such field. "
                f"{hint or 'Known: ' + (', '.join(fields) or 'none')}"
            )
        registry = REGISTRIES.get(hints[key])
        if registry is not None:
            default = fields[key].default_factory
            usual = None if default is dataclasses.MISSING else type(default())
            values[key] = _build_section(registry, usual, value, source, f"{path}{key}.")
        else:
            values[key] = _value(value, hints[key], source, f"{path}{key}")
    for key, field in fields.items():
        given = key in values or field.default is not dataclasses.MISSING
        if not given and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{source}: {path}{key}: is missing")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{source}: {path}{error}") from None


def _hint(key: str, known: Collection[str], path: str) -> str:
    """What is likely meant by an unknown field, or which other classes of its section have it."""
    section = path.removesuffix(".")
    registry = _SECTIONS.get(section)
    others = "" if registry is None else having(registry, key, section)
    return others or suggestion(key, known)


def _value(value: Any, hint: Any, source: str, where: str) -> Any:
    """The value of a field as Python has it. Whether its type and range are right, the config's
    own class says."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{source}: {where}: got {shown(value)}, expected a mapping of fields"
            )
        return _build(typing.cast(type, hint), value, source, f"{where}.")
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        item, *_ = typing.get_args(hint)
        return tuple(_value(each, item, source, where) for each in value)
    options = union_members(hint)
    if isinstance(value, str):
        value = as_written(value, options)
    numbers = {int, float} & set(options)
    if numbers == {int} and isinstance(value, float) and value.is_integer():
        return int(value)  # 1.0e+6
    if numbers == {float} and type(value) is int and abs(value) < 2**63:
        return float(value)
    return value


def _build_section(
    registry: Registry[Any], default: type | None, data: Any, source: str, path: str
) -> Any:
    if isinstance(data, str):
        data = {"name": data}
    if not isinstance(data, Mapping):
        raise ConfigError(
            f"{source}: {path[:-1]}: got {shown(data)}, expected a {registry.kind} name or a "
            "mapping"
        )
    fields = dict(data)
    name = fields.pop("name", None)
    if name is None and default is None:
        raise ConfigError(
            f"{source}: {path}name: is missing, expected one of {', '.join(registry.names())}"
        )
    cls = default if name is None else _look_up(registry, name, f"{source}: {path}name")
    return _build(cls, fields, source, path)  # type: ignore[arg-type]  # one of the two is not None


def _look_up(registry: Registry[D], name: Any, where: str) -> type[D]:
    try:
        return registry[name]
    except UnknownNameError as error:
        raise ConfigError(f"{where}: {error}") from None
