import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fwp_rl
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.config import ConfigError
from fwp_rl.cores import CORES
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.cores.gtrxl import GTrXLConfig
from fwp_rl.cores.rnn import LSTMConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.models.encoders import MLPConfig, NatureCNNConfig
from fwp_rl.models.policy import Policy, PolicyConfig
from fwp_rl.runs.checkpoint import CheckpointError, save_checkpoint
from fwp_rl.runs.files import write_folder
from fwp_rl.runs.policy import load_policy, load_saved, save_policy
from fwp_rl.types import EnvSpec, Observation, PolicyOutput

from .cases import reseal

ENV = RecallConfig(num_cues=3, max_delay=5)
SPEC = {"name": "recall", "observation_shape": [5], "num_actions": 3}


def make_policy(core=None, *, seed: int = 0, spec: EnvSpec | None = None, **fields) -> Policy:
    torch.manual_seed(seed)
    encoder = MLPConfig(hidden_sizes=(16,)) if spec is None else NatureCNNConfig(features=8)
    config = PolicyConfig(encoder=encoder, core=core or LSTMConfig(hidden_size=8), **fields)
    return Policy(config, spec or ENV.spec())


def play(policy: Policy) -> PolicyOutput:
    generator = torch.Generator().manual_seed(0)
    shape = (6, 3, *policy.spec.observation_shape)
    observation = Observation(
        obs=torch.randn(shape, generator=generator),
        reset=torch.rand(6, 3, generator=generator) < 0.3,
        last_reward=torch.randn(6, 3, generator=generator),
        last_action=torch.randint(0, policy.spec.num_actions, (6, 3), generator=generator),
    )
    with torch.no_grad():
        return policy(observation, policy.initial_state(3))


def save_run(path: Path) -> Policy:
    """A run with a policy folder and a checkpoint of other weights."""
    (path / "config.yaml").write_text("agent: ppo\n")
    save_policy(path / "policy", make_policy(), env=ENV, metadata={"step": 20, "agent": "ppo"})
    earlier = make_policy(seed=1)
    save_checkpoint(
        path / "checkpoints",
        step=10,
        policy=earlier,
        optimizer=torch.optim.Adam(earlier.parameters()),
        state={},
        generators={},
        run={"id": "x", "config": {}},
        score=0.5,
        measure="training",
    )
    return earlier


def change(folder: Path, **changes) -> None:
    """Change fields of config.json, with a manifest that fits."""
    config = json.loads((folder / "config.json").read_text())
    reseal(folder, {"config.json": json.dumps(config | changes).encode()})


@pytest.mark.parametrize("core", sorted(CORES))
def test_a_policy_rebuilds_itself(tmp_path, core):
    policy = make_policy(CORES[core](), last_action=True, reward_clip=None)
    save_policy(tmp_path / "policy", policy, env=ENV, metadata={"step": 5})
    saved = load_saved(tmp_path / "policy")
    assert saved.policy.config == policy.config
    assert saved.policy.spec == policy.spec
    assert saved.env == ENV
    assert saved.metadata == {"step": 5}
    assert saved.path == tmp_path / "policy"
    assert not saved.policy.training
    ours, theirs = play(saved.policy), play(policy.eval())
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.value, theirs.value)


def test_images(tmp_path):
    spec = EnvSpec(name="atari/Pong", observation_shape=(2, 84, 84), num_actions=6)
    policy = make_policy(FeedforwardConfig(), spec=spec)
    save_policy(tmp_path / "policy", policy, env=ENV, metadata={})
    assert load_policy(tmp_path / "policy").spec == spec


def test_the_policy_of_a_training_config(tmp_path):
    """A training config is a policy config with more fields; only the policy's are kept."""
    config = PPOConfig(encoder=MLPConfig(hidden_sizes=(8,)), core=DeltaNetConfig(), env=ENV)
    save_policy(tmp_path / "policy", Policy(config, ENV.spec()), env=ENV, metadata={})
    policy = load_policy(tmp_path / "policy")
    assert type(policy.config) is PolicyConfig
    assert policy.config.core == config.core


def test_saving_leaves_the_policy_as_it_was(tmp_path):
    policy = make_policy(precision="auto").train()
    before = torch.get_rng_state()
    save_policy(tmp_path / "policy", policy, env=ENV, metadata={})
    load_policy(tmp_path / "policy")
    assert policy.training
    assert policy.config.precision == "auto"
    assert torch.equal(torch.get_rng_state(), before), "saving and loading draw no random numbers"


def test_a_run_and_its_checkpoint_are_policies_too(tmp_path):
    earlier = save_run(tmp_path)
    saved = load_saved(tmp_path)
    assert saved.path == tmp_path / "policy"
    assert torch.equal(play(saved.policy).logits, play(make_policy()).logits)
    path = tmp_path / "checkpoints" / "step_000000000010"
    saved = load_saved(path)
    assert saved.path == path
    assert saved.metadata == {"step": 10, "score": 0.5, "agent": "ppo"}
    assert torch.equal(play(saved.policy).logits, play(earlier).logits)


def test_relative_paths(tmp_path, monkeypatch):
    save_run(tmp_path)
    monkeypatch.chdir(tmp_path / "checkpoints")
    assert load_saved("step_000000000010").metadata["step"] == 10
    monkeypatch.chdir(tmp_path)
    assert load_saved(".").metadata["step"] == 20


def test_load_policy_is_at_the_top():
    assert fwp_rl.load_policy is load_policy


def test_nothing_is_ever_unpickled(tmp_path, monkeypatch):
    save_policy(tmp_path / "policy", make_policy(), env=ENV, metadata={})

    def refuse(*args, **kwargs):
        raise AssertionError("something was unpickled")

    for owner, name in ((torch, "load"), (pickle, "load"), (pickle, "loads")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    load_policy(tmp_path / "policy")


def test_wrong_paths_say_what_is_expected(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such folder; expected a policy folder"):
        load_policy(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"manifest\.json: is missing"):
        load_policy(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(CheckpointError, match="policy: there is no such folder"):
        load_policy(tmp_path)


def test_a_foreign_folder_is_refused(tmp_path):
    write_folder(tmp_path / "x", {"a": b"b"}, kind="dataset", about={})
    with pytest.raises(CheckpointError, match="'dataset' folder, expected 'policy'"):
        load_policy(tmp_path / "x")


def test_a_flipped_bit_is_found(tmp_path):
    save_policy(tmp_path / "policy", make_policy(), env=ENV, metadata={})
    path = tmp_path / "policy" / "policy.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"policy\.safetensors: is damaged"):
        load_policy(tmp_path / "policy")


def test_weights_of_another_network_are_refused(tmp_path):
    policy = make_policy(LSTMConfig(hidden_size=8))
    save_policy(tmp_path / "policy", policy, env=ENV, metadata={})
    spec = {"name": "recall", "observation_shape": [5], "num_actions": 4}
    change(tmp_path / "policy", spec=spec)
    with pytest.raises(CheckpointError, match=r"policy_head.*\[3, 8\].*\[4, 8\]"):
        load_policy(tmp_path / "policy")


def test_a_network_that_computes_something_else_is_refused(tmp_path):
    """Same shapes, other function: only the probe can tell."""
    save_policy(tmp_path / "policy", make_policy(), env=ENV, metadata={})
    other = replace(make_policy().config, encoder=MLPConfig(hidden_sizes=(16,), activation="relu"))
    config = json.loads((tmp_path / "policy" / "config.json").read_text())["policy"]
    config["encoder"]["activation"] = other.encoder.activation
    change(tmp_path / "policy", policy=config)
    with pytest.raises(CheckpointError, match="does not compute what the saved one did"):
        load_policy(tmp_path / "policy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec": None}, r"config\.json: spec: got None"),
        ({"spec": {"name": "recall"}}, r"lacks spec\.observation_shape"),
        *(
            ({"spec": SPEC | change}, r"config\.json: spec")
            for change in (
                *({"num_actions": n} for n in ("3", 3.0, None, -1, 0, True, 10**12)),
                *({"observation_shape": s} for s in ([], ["5"], [5.0], [-6], [10**10], [5000] * 2)),
                {"observation_shape": [1] * 9},
                {"observation_shape": 5},
                {"name": 5},
            )
        ),
        ({"metadata": 3}, "metadata: got 3"),
        *(
            ({"metadata": {"step": step}}, "metadata.*step: got")
            for step in ("5", -1, True, 1.5, 10**30)
        ),
        ({"probe": {"logits": [float("inf")] * 24, "value": [0.0] * 8}}, "is no finite number"),
        ({"policy": {"core": {"name": "lstm", "hidden_size": "64"}}}, "hidden_size: got '64'"),
        ({"policy": {"core": {"name": "lstm", "hidden_size": True}}}, "hidden_size: got True"),
        ({"policy": {"reward_clip": "1"}}, "reward_clip: got '1', expected a number"),
        ({"env": {"name": "recal"}}, "Did you mean 'recall'"),
        ({"env": {"name": ["recall"] * 10_000}}, "unknown environment"),
        ({"env": []}, "env: got"),
        *(({"policy": policy}, "policy: got") for policy in (None, [], 7)),
        *(({"policy": {"core": core}}, "core: got") for core in (None, [], 7)),
        *(({"probe": probe}, "probe") for probe in ({}, [], None, 7)),
        *(
            ({"probe": {"logits": numbers, "value": [0.0] * 8}}, "logits")
            for numbers in (None, "x", ["x"], [], [[1.0]], [True] * 24, [0.0])
        ),
    ],
)
def test_a_config_that_cannot_be_read_is_named(tmp_path, changes, message):
    save_policy(tmp_path / "policy", make_policy(), env=ENV, metadata={})
    change(tmp_path / "policy", **changes)
    with pytest.raises((CheckpointError, ConfigError), match=message) as error:
        _ = load_saved(tmp_path / "policy").env
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


def test_a_config_without_its_parts_is_refused(tmp_path):
    save_policy(tmp_path / "policy", make_policy(), env=ENV, metadata={})
    reseal(tmp_path / "policy", {"config.json": b"{}"})
    with pytest.raises(CheckpointError, match=r"config\.json: lacks policy"):
        load_policy(tmp_path / "policy")


def test_a_reader_who_comes_while_the_folder_is_replaced_tries_again(tmp_path, monkeypatch):
    save_policy(tmp_path / "policy", make_policy(seed=0), env=ENV, metadata={"step": 1})
    path_open = Path.open

    def open_then_replace(path: Path, *args: Any, **kwargs: Any) -> Any:
        file = path_open(path, *args, **kwargs)
        if path.name == "manifest.json":  # the new weights will not fit the old manifest
            monkeypatch.undo()
            save_policy(tmp_path / "policy", make_policy(seed=1), env=ENV, metadata={"step": 2})
        return file

    monkeypatch.setattr(Path, "open", open_then_replace)
    assert load_saved(tmp_path / "policy").metadata == {"step": 2}


def test_a_crash_between_the_two_renames_leaves_the_old_policy(tmp_path):
    save_policy(tmp_path / "policy", make_policy(seed=0), env=ENV, metadata={"step": 1})
    os.rename(tmp_path / "policy", tmp_path / "policy.old")
    (tmp_path / "config.yaml").touch()
    assert load_saved(tmp_path).metadata == {"step": 1}
    assert load_saved(tmp_path / "policy").metadata == {"step": 1}
    save_policy(tmp_path / "policy", make_policy(seed=1), env=ENV, metadata={"step": 2})
    assert load_saved(tmp_path).metadata == {"step": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "policy"]


HUGE = [
    {"core": {"name": "delta_net", "layers": 20_000}},
    {"core": {"name": "delta_net", "layers": 10**9}},
    {"core": {"name": "delta_mlp", "depth": 10**9}},
    {"core": {"name": "lstm", "hidden_size": 30_000}},
    {"core": {"name": "lstm", "hidden_size": 10**15}},
    {"core": {"name": "lstm", "hidden_size": 10**30}},
    {"core": {"name": "gtrxl", "window": 10**9}},
    {"core": {"name": "gru", "hidden_size": 10**6}},
    {"encoder": {"name": "mlp", "hidden_sizes": [1] * 100_000}},
    {"encoder": {"name": "impala_resnet", "channels": [1] * 100_000}},
]


@pytest.mark.parametrize("part", HUGE, ids=lambda part: str(part)[:60])
def test_a_network_that_is_larger_than_its_weights_is_not_built(tmp_path, part):
    save_policy(tmp_path / "policy", make_policy(), env=ENV, metadata={})
    config = json.loads((tmp_path / "policy" / "config.json").read_text())["policy"]
    change(tmp_path / "policy", policy=config | part)
    with pytest.raises((CheckpointError, ConfigError)) as error:
        load_policy(tmp_path / "policy")
    assert "\n" not in str(error.value)


def test_a_memory_that_takes_no_weights_is_bounded_too(tmp_path):
    policy = make_policy(GTrXLConfig(layers=1, hidden_size=8, heads=1, window=3))
    save_policy(tmp_path / "policy", policy, env=ENV, metadata={})
    config = json.loads((tmp_path / "policy" / "config.json").read_text())["policy"]
    config["core"]["window"] = 10**9
    change(tmp_path / "policy", policy=config)
    with pytest.raises(CheckpointError, match="a memory of 18,000,000,000 numbers"):
        load_policy(tmp_path / "policy")


def test_a_network_whose_answers_are_no_numbers_is_not_saved(tmp_path):
    policy = make_policy()
    torch.nn.init.constant_(policy.value_head.weight, 3e38)
    torch.nn.init.constant_(policy.value_head.bias, 3e38)
    with pytest.raises(CheckpointError, match="answers hold NaN or infinity"):
        save_policy(tmp_path / "policy", policy, env=ENV, metadata={})
    assert not (tmp_path / "policy").exists()


def test_weights_of_a_damaged_trainer_file_are_still_weights(tmp_path):
    earlier = save_run(tmp_path)
    path = tmp_path / "checkpoints" / "step_000000000010"
    (path / "trainer.safetensors").write_bytes(b"")
    assert torch.equal(play(load_policy(path)).logits, play(earlier).logits)
