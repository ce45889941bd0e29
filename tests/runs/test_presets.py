"""YAML, Python and the registries agree, and every mistake is named before anything starts."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

from fwp_rl import agents
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.config import ConfigError
from fwp_rl.cores import CORES
from fwp_rl.cores.rnn import LSTMConfig
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.envs.gym import GymnasiumConfig
from fwp_rl.models.policy import PolicyConfig
from fwp_rl.registry import UnknownNameError
from fwp_rl.runs.config import AGENTS
from fwp_rl.runs.plain_yaml import parse_yaml
from fwp_rl.runs.presets import (
    REGISTRIES,
    bookkeeping,
    config_to_dict,
    env_config_from_dict,
    experiment,
    first_change,
    load_preset,
    policy_config_from_dict,
)
from fwp_rl.runs.yaml_files import SECTIONS, preset_names


def build(text: str) -> Any:
    return agents.config_from_dict(parse_yaml(text, source="mine.yaml"), source="mine.yaml")


def test_the_sections_are_the_fields_that_a_registry_knows() -> None:
    found = set()
    for agent in AGENTS.values():
        hints = typing.get_type_hints(agent)
        fields = {field.name: field for field in dataclasses.fields(agent)}
        for section in [name for name, hint in hints.items() if hint in REGISTRIES]:
            found.add(section)
            default = fields[section].default_factory
            if SECTIONS[section] is None:
                assert default is dataclasses.MISSING
            else:
                assert REGISTRIES[hints[section]].name_of(type(default())) == SECTIONS[section]
    assert found == set(SECTIONS)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_survives_a_round_trip(name: str) -> None:
    config = agents.load_preset(name)
    plain = yaml.safe_load(yaml.safe_dump(config_to_dict(config)))
    assert agents.config_from_dict(plain, source="again") == config
    env = env_config_from_dict(config_to_dict(config.env))
    assert env == config.env
    policy = policy_config_from_dict(config_to_dict(config, as_type=PolicyConfig))
    assert policy.core == config.core
    assert policy.encoder == config.encoder


@pytest.mark.parametrize("name", sorted(CORES))
def test_every_core_is_reached_by_its_name_alone(name: str) -> None:
    config = build(f"{{agent: ppo, core: {name.replace('_', '-')}}}")
    assert isinstance(config, PPOConfig)
    assert type(config.core) is CORES[name]


def test_a_section_without_a_name_changes_the_default_class() -> None:
    config = build("{agent: ppo, core: {heads: 8}, env: {game: pong}}")
    assert isinstance(config, PPOConfig)
    assert config.core == dataclasses.replace(PPOConfig().core, heads=8)  # type: ignore[call-arg]
    assert config.env == AtariConfig(game="Pong")


def test_a_float_without_a_dot_is_a_float() -> None:
    config = build("{agent: ppo, learning_rate: 5e-4}")
    assert isinstance(config, PPOConfig)
    assert config.learning_rate == 5e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "agent: is missing, expected one of impala, ppo"),
        ("{agent: pppo}", "unknown agent 'pppo'. Did you mean 'ppo'?"),
        ("{agent: ppo, learning_rat: 1}", "learning_rat: there is no such field. Did you mean"),
        ("{agent: ppo, learning_rate: .nan}", "learning_rate: got nan, expected more than 0 to 1"),
        ("{agent: ppo, learning_rate: -1}", "learning_rate: got -1.0, expected more than 0 to 1"),
        ("{agent: ppo, learning_rate: fast}", "learning_rate: got 'fast', expected a number"),
        ("{agent: ppo, num_envs: 0}", "num_envs: got 0, expected 1 to 4096"),
        ("{agent: ppo, num_envs: 2.5}", "num_envs: got 2.5, expected a whole number, 1 to 4096"),
        ("{agent: ppo, num_envs: 6, minibatches: 4}", "minibatches: got 4, expected a divisor"),
        ("{agent: ppo, burn_in: 200}", "burn_in: got 200, expected less than rollout_length = 128"),
        ("{agent: ppo, device: gpu}", "device: got 'gpu', expected"),
        ("{agent: impala, actors: {device: gpu}}", ": actors.device: got 'gpu', expected"),
        ("{agent: impala, actors: {count: 0}}", ": actors.count: got 0, expected 1 to 256"),
        ("{agent: ppo, core: lstmm}", "core.name: unknown core 'lstmm'. Did you mean 'lstm'?"),
        ("{agent: ppo, core: {name: lstm, heads: 4}}", "core.heads: there is no such field"),
        ("{agent: ppo, core: {name: lstm, hidden_size: 0}}", "core.hidden_size: got 0, expected 1"),
        ("{agent: ppo, core: 3}", "core: got 3, expected a core name or a mapping"),
        ("{agent: impala, actors: 3}", ": actors: got 3, expected a mapping of fields"),
        ("{agent: ppo, seed: 0100000}", "seed: got '0100000', expected a whole number, 0 to"),
        ("{agent: ppo, seed: 10:00}", "seed: got '10:00', expected a whole number"),
        ("{agent: ppo, seed: 2026-01-02}", "seed: got '2026-01-02', expected a whole number"),
        ("{agent: ppo, seed: '64'}", "seed: got '64', expected a whole number"),
        ("{agent: ppo, seed: 2.5e0}", "seed: got 2.5, expected a whole number"),
        ("{agent: ppo, seed: none}", "seed: got 'none', expected a whole number"),
        ("{agent: ppo, total_steps: 1e400}", "total_steps: got <about 398 digits>"),
        ("{agent: ppo, learning_rate: 1e999}", "learning_rate: got <about"),
        ("{agent: ppo, value_clip: true}", "value_clip: got True, expected a number, more than 0"),
        ("{agent: ppo, reward_clip: yes}", "reward_clip: got True, expected a number, more than 0"),
        ("{agent: ppo, discount: on}", "discount: got True, expected a number, 0 to 1"),
        ("{agent: ppo, learning_rate: true}", "learning_rate: got True, expected a number"),
        ("{agent: ppo, seed: true}", "seed: got True, expected a whole number"),
        ("{agent: ppo, entropy_coefficient: off}", "entropy_coefficient: got False"),
        ("{agent: ppo, core: {layers: true}}", "core.layers: got True, expected a whole number"),
        ("{agent: ppo, encoder: {name: mlp, hidden_sizes: [true, 64]}}",
         "encoder.hidden_sizes: got True, expected a whole number"),
        ("{agent: ppo, encoder: {name: mlp, hidden_sizes: 64}}",
         "encoder.hidden_sizes: got 64, expected a list"),
        ("{agent: ppo, encoder: {name: mlp, hidden_sizes: '64'}}",
         "encoder.hidden_sizes: got '64', expected a list"),
        ("{agent: ppo, video: 1}", "video: got 1, expected true or false"),
        ("{agent: ppo, video: 'yes'}", "video: got 'yes', expected true or false"),
        ("{agent: ppo, plain: none}", "plain: got 'none', expected true or false"),
        ("{agent: ppo, env: {fire_reset: 0}}", "env.fire_reset: got 0, expected true or false"),
        ("{agent: ppo, logger: true}", "logger: got True, expected one of tensorboard, wandb"),
        ("{agent: ppo, run_dir: 5}", "run_dir: got 5, expected a string"),
        ("{agent: ppo, run_dir: [a, {b: c}]}", "run_dir: got ['a', {'b': 'c'}], expected a string"),
        ("{agent: ppo, 5: 5}", ": 5: there is no such field"),
        ("{agent: ppo, env: {name: gymnasium, kwargs: [1]}}", "env.kwargs: got [1]"),
        ("{agent: ppo, env: {game: Brekout}}", "Did you mean 'Breakout'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"^mine\.yaml: ") as error:
        build(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("total_steps: 1e6", {"total_steps": 1_000_000}),
        ("total_steps: 2.5e+3", {"total_steps": 2_500}),
        ("total_steps: 1.0e+6", {"total_steps": 1_000_000}),
        ("total_steps: !!float 1e7", {"total_steps": 10_000_000}),
        ("total_steps: 1_000", {"total_steps": 1000}),
        ("total_steps: 0x10", {"total_steps": 16}),
        ("learning_rate: 1e-4", {"learning_rate": 1e-4}),
        ("reward_clip: none", {"reward_clip": None}),
        ("reward_clip: None", {"reward_clip": None}),
        ("reward_clip: null", {"reward_clip": None}),
        ("reward_clip: 2", {"reward_clip": 2.0}),
        ("value_clip: 1e0", {"value_clip": 1.0}),
        ("run_dir: none", {"run_dir": None}),
        ("run_dir: 1e6", {"run_dir": "1e6"}),
        ("run_dir: 2026-01-02", {"run_dir": "2026-01-02"}),
        ("run_dir: 0100", {"run_dir": "0100"}),
        ("run_dir:", {"run_dir": None}),
    ],
)
def test_values_mean_what_a_person_means(text: str, values: dict[str, Any]) -> None:
    config = build(f"agent: ppo\n{text}")
    for name, value in values.items():
        assert getattr(config, name) == value
        assert type(getattr(config, name)) is type(value)
    again = parse_yaml(yaml.safe_dump(config_to_dict(config)), source="again")
    assert agents.config_from_dict(again, source="again") == config


def test_an_unknown_preset_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'quickstart'"):
        agents.load_preset("quikstart")


def test_files_that_are_no_preset(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        agents.load_preset(str(tmp_path / "none.yaml"))
    path = tmp_path / "bad.yaml"
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        agents.load_preset(str(path))
    path.write_text("- ppo")
    with pytest.raises(ConfigError, match="expected a mapping"):
        agents.load_preset(str(path))


@pytest.mark.parametrize("value", [float("nan"), -1.0, 0, "fast", None, True, 10**400])
def test_python_holds_to_the_same_ranges(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^learning_rate: got "):
        PPOConfig(learning_rate=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": True}, "seed: got True, expected a whole number"),
        ({"seed": 10**30}, "seed: got "),
        ({"video": 0}, "video: got 0, expected true or false"),
        ({"run_dir": "a" * 10_000}, "run_dir: got 'aaa"),
        ({"run_dir": "a\0b"}, "none of them NUL"),
        ({"precision": "float33"}, "Did you mean 'float32'"),
        ({"precision": [["x"] * 10_000] * 10_000}, "precision: got "),
    ],
)
def test_python_says_it_in_the_same_words(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        PPOConfig(**fields)
    assert message in str(error.value)
    assert len(str(error.value)) < 400


def test_swapping_the_core_in_python() -> None:
    config = dataclasses.replace(agents.load_preset("quickstart"), core=LSTMConfig())
    assert config_to_dict(config)["core"]["name"] == "lstm"


@pytest.mark.parametrize("name", [None, 5, ["recall"], {"agent": "ppo"}])
def test_a_preset_is_a_name(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"preset: got .*, expected a name or the path"):
        load_preset(name)
    with pytest.raises(UnknownNameError, match="unknown agent"):
        AGENTS[name]


HOW_IT_RUNS = {
    "device", "run_dir", "checkpoint_minutes", "evaluation_games", "video", "keep_memory", "logger",
    "keep_checkpoints_every", "evaluate_every", "hang_seconds", "log_every",
    "learner_threads", "plain",
}  # fmt: skip


def test_what_is_bookkeeping_and_what_is_the_experiment() -> None:
    ppo, impala = load_preset("recall"), load_preset("impala_cpu")
    assert bookkeeping(ppo).keys() == HOW_IT_RUNS
    actors = {"actors.device", "actors.cpu_threads"}
    assert bookkeeping(impala).keys() == HOW_IT_RUNS | actors
    gymnasium = dataclasses.replace(ppo, env=GymnasiumConfig(id="CartPole-v1", kwargs={"a": 1}))
    assert bookkeeping(gymnasium).keys() == HOW_IT_RUNS | {"env.processes"}
    assert experiment(gymnasium)["env.kwargs"] == {"a": 1}
    for config in (ppo, impala):
        fields = experiment(config)
        assert {"agent", "seed", "total_steps", "core.name", "env.name"} <= fields.keys()
        assert not fields.keys() & bookkeeping(config).keys()
        assert "seed" not in experiment(config, without=("seed",))
    assert experiment(impala)["actors.count"] == 2  # how far actors lag behind is the experiment
    # a rule that the protocol settles is told by its value
    assert experiment(impala)["env.frame_skip"] == 4


def test_the_first_change_is_named() -> None:
    config = load_preset("recall")
    assert first_change(config, config) is None
    assert first_change(config, dataclasses.replace(config, device="cuda:7", plain=True)) is None
    heads = dataclasses.replace(config, core=dataclasses.replace(config.core, heads=1))  # type: ignore[call-arg]  # a delta net
    assert first_change(config, heads) == ("core.heads", config.core.heads, 1)  # type: ignore[attr-defined]  # a delta net
    lstm = dataclasses.replace(config, core=LSTMConfig())
    assert first_change(config, lstm) == ("core.name", "delta_net", "lstm")
    more = dataclasses.replace(config, total_steps=7)
    assert first_change(config, more, without=("total_steps",)) is None
    assert first_change(config, more) == ("total_steps", config.total_steps, 7)
