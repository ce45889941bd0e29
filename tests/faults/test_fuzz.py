"""Whatever a file holds: what it says, or one of our own errors in one line."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fwp_rl import agents
from fwp_rl.ablation.grid import expand
from fwp_rl.config import ConfigError
from fwp_rl.cores import CORES
from fwp_rl.envs import ENVS
from fwp_rl.models.base import ENCODERS
from fwp_rl.runs.checkpoint import CheckpointError, load_checkpoint
from fwp_rl.runs.config import AGENTS
from fwp_rl.runs.files import parse_json, read_folder, write_folder
from fwp_rl.runs.plain_yaml import parse_yaml
from fwp_rl.runs.policy import load_policy
from fwp_rl.runs.presets import config_to_dict, policy_config_from_dict
from fwp_rl.tasks import TASKS

few = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

REGISTRIES = {"agent": AGENTS, "core": CORES, "encoder": ENCODERS, "env": ENVS, "task": TASKS}
CLASSES = [cls for registry in REGISTRIES.values() for cls in registry.values()]
FIELDS = sorted({field.name for cls in CLASSES for field in dataclasses.fields(cls)} | {"name"})

words = st.sampled_from(
    [
        "none",
        "None",
        "1e6",
        "0100",
        "10:00",
        "2001-01-01",
        "yes",
        "<<",
        "=",
        "nan",
        "",
        "64",
        "x" * 300,
    ]
    + [name for registry in REGISTRIES.values() for name in registry]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | words
    | st.text(max_size=8)
)
names = st.sampled_from(FIELDS) | st.sampled_from(["preset", "axes", "overrides", *REGISTRIES])
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | scalars, inner, max_size=4),
    max_leaves=12,
)
section = words | st.dictionaries(names, anything, max_size=4)
configs = st.dictionaries(names, anything, max_size=4).flatmap(
    lambda fields: st.fixed_dictionaries(
        {"agent": st.sampled_from(sorted(AGENTS))},
        optional={"core": section, "encoder": section, "env": section},
    ).map(lambda known: fields | known)
)


def is_told(error: Exception) -> None:
    """In one line, without quoting all that was given."""
    text = str(error)
    assert "\n" not in text, text[:2000]
    assert len(text) < 1500, text[:2000]


def refused(function: Any, *args: Any, **kwargs: Any) -> bool:
    try:
        function(*args, **kwargs)
    except (ConfigError, CheckpointError) as error:
        is_told(error)
        return True
    return False


@few
@given(configs)
def test_a_config_is_one_or_is_refused(data: dict[str, Any]) -> None:
    refused(agents.config_from_dict, data, source="x")
    refused(policy_config_from_dict, {k: v for k, v in data.items() if k != "agent"})


@few
@given(
    st.fixed_dictionaries(
        {"preset": st.just("recall"), "axes": st.dictionaries(names, anything, max_size=3)},
        optional={"overrides": st.dictionaries(names, anything, max_size=3)},
    )
    | st.dictionaries(names | scalars, anything, max_size=3)
)
def test_a_grid_is_one_or_is_refused(data: dict[Any, Any]) -> None:
    refused(expand, data, source="x")


tokens = st.lists(
    words
    | names
    | st.sampled_from(
        ["a: ", "\n", "  ", "- ", "[", "]", "{", "}", ": ", ", ", "&a ", "*a", "<<: "]
    )
    | st.sampled_from(["!!int ", "!!float ", "!!bool ", "!!set ", "!x ", "? ", "| ", "'", '"', "#"])
    | st.sampled_from(
        ["9" * 5000, "1.5", "0x", "0b_", "._", "-", "\0", "\t", "---", "...", "%YAML 1.2"]
    )
    | st.text(max_size=4),
    max_size=20,
).map("".join)


@few
@given(tokens | anything.map(lambda data: yaml.safe_dump(data, allow_unicode=True)))
def test_yaml_is_data_or_is_refused(text: str) -> None:
    refused(parse_yaml, text, source="x")


@few
@given(st.dictionaries(st.text(max_size=4), scalars.filter(lambda x: x != 10**400), max_size=5))
def test_yaml_that_was_dumped_is_what_it_was(data: dict[str, Any]) -> None:
    """Whatever a text looks like: run directories are called by what people like."""
    text = yaml.safe_dump(data, allow_unicode=True, sort_keys=False)
    again = parse_yaml(text, source="x")
    assert json.dumps(again) == json.dumps(data)  # NaN is not itself


@few
@given(st.sampled_from(sorted(AGENTS)), st.data())
def test_a_config_survives_its_file(agent: str, data: st.DataObject) -> None:
    chosen = {
        section: data.draw(st.sampled_from(sorted(set(registry) - {"gymnasium"})))
        for section, registry in REGISTRIES.items()
        if section in {field.name for field in dataclasses.fields(AGENTS[agent])}
    }
    run_dir = data.draw(st.none() | st.text(st.characters(exclude_characters="\0")) | words)
    config = agents.config_from_dict({"agent": agent, "run_dir": run_dir} | chosen, source="x")
    text = yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True)
    assert agents.config_from_dict(parse_yaml(text, source="y"), source="y") == config


def dumped(data: Any) -> bytes:
    return json.dumps(data, default=str, skipkeys=True).encode()


@few
@given(st.binary(max_size=40) | anything.map(dumped) | st.text().map(str.encode))
def test_json_is_an_object_or_is_refused(data: bytes) -> None:
    refused(parse_json, data, Path("x.json"))


keys = st.sampled_from(["kind", "schema", "fwp_rl", "about", "files", "seal", "size", "sha256"])
manifests = st.recursive(
    scalars | st.sampled_from(["test", "a.bin", "checkpoint", "policy"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=6),
    max_leaves=10,
)


@few
@given(st.dictionaries(keys, manifests, max_size=6))
def test_a_manifest_is_good_or_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = tmp_path / "step_000000000003"
    write_folder(folder, {"a.bin": b"123"}, kind="test", about={"step": 3})
    manifest = json.loads((folder / "manifest.json").read_text())
    for base in ({}, manifest, {k: v for k, v in manifest.items() if k != "seal"} | {"schema": 1}):
        (folder / "manifest.json").write_bytes(dumped(base | changes))
        if not refused(read_folder, folder, kind="test", expected=("a.bin",)):
            assert read_folder(folder, kind="test", expected=("a.bin",)).sizes == {"a.bin": 3}
        refused(load_checkpoint, folder)


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a" * 300, "a" * 5000, "a\0b"])
def test_any_path_is_a_policy_or_is_refused(name: str) -> None:
    assert refused(load_policy, Path("/nowhere") / name)
