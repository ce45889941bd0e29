"""Action rules and the networks that play by them, from the draw to the saved folder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fwp_rl.config import ConfigError
from fwp_rl.cores.rnn import GRUConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.evaluation import evaluate
from fwp_rl.models import (
    ACTION_RULES,
    POLICIES,
    EpsilonGreedy,
    Greedy,
    MLPConfig,
    Policy,
    PolicyConfig,
    QNetwork,
    Sampled,
)
from fwp_rl.reports.moments import play, screen_of
from fwp_rl.rl.collector import Actor
from fwp_rl.runs.checkpoint import CheckpointError
from fwp_rl.runs.policy import load_saved, save_policy
from fwp_rl.types import Observation

ENV = RecallConfig()


def network(kind: str, **changes: Any) -> Policy:
    torch.manual_seed(0)
    config = PolicyConfig(
        encoder=MLPConfig(hidden_sizes=(8,), layer_norm=True),
        core=GRUConfig(hidden_size=8),
        precision="float32",
    )
    built = POLICIES[kind](replace(config, **changes), ENV.spec())
    with torch.no_grad():  # the heads' small initial weights would hide a difference
        for name, parameter in built.named_parameters():
            if "head.weight" in name:
                parameter.mul_(100)
    return built.eval()


def observation() -> Observation:
    generator = torch.Generator().manual_seed(1)
    reset = torch.rand(6, 3, generator=generator) < 0.3
    return Observation(
        obs=torch.randn(6, 3, *ENV.spec().observation_shape, generator=generator),
        reset=reset,
        last_reward=torch.zeros(6, 3),
        last_action=torch.full((6, 3), -1),
    )


def test_epsilon_greedy_plays_anything_so_often() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 3.0]]).expand(20_000, 4)
    generator = torch.Generator().manual_seed(0)
    for epsilon in (0.0, 0.2, 1.0):
        action = EpsilonGreedy(epsilon=epsilon)(logits, generator)
        shares = torch.bincount(action, minlength=4) / len(action)
        expected = torch.full((4,), epsilon / 4)
        expected[1] += 1 - epsilon  # of equals the first
        assert (shares - expected).abs().max() < 0.015
    assert torch.equal(EpsilonGreedy(epsilon=0)(logits), Greedy()(logits))


def test_another_epsilon_leaves_the_random_stream_as_it_was() -> None:
    states = []
    for epsilon in (0.0, 0.5):
        generator = torch.Generator().manual_seed(3)
        EpsilonGreedy(epsilon=epsilon)(torch.zeros(5, 2), generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_a_rule_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"epsilon: got 1\.5, expected 0 to 1"):
        EpsilonGreedy(epsilon=1.5)


def test_labels() -> None:
    rules = [Sampled(), Greedy(), EpsilonGreedy(epsilon=0.001)]
    assert [rule.label() for rule in rules] == ["sampled", "greedy", "epsilon_greedy 0.001"]
    assert list(ACTION_RULES) == ["sampled", "greedy", "epsilon_greedy"]


def test_a_q_networks_value_is_that_of_its_best_action_and_its_core_is_the_actor_critics() -> None:
    q, critic = network("q_network"), network("actor_critic")
    output = q(observation(), q.initial_state(3))
    assert isinstance(q, QNetwork)
    assert output.logits.shape == (6, 3, 4)
    assert torch.equal(output.value, output.logits.max(-1).values)
    other = critic(observation(), critic.initial_state(3))
    for leaf, same in zip(output.state, other.state, strict=True):
        assert torch.equal(leaf, same)
    shown = q.preferences(output.logits)
    assert torch.equal(shown.argmax(-1), output.logits.argmax(-1))
    assert shown.min() == 0
    assert shown.max() == 1


def test_every_parameter_of_a_q_network_learns() -> None:
    q = network("q_network")
    q(observation(), q.initial_state(3)).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in q.parameters())


@pytest.mark.parametrize("kind", POLICIES)
def test_a_policy_comes_back_as_what_it_was(kind: str, tmp_path: Path) -> None:
    built = network(kind)
    built.action_rule = EpsilonGreedy(epsilon=0.25)
    save_policy(tmp_path / "policy", built, env=ENV, metadata={"step": 5})
    again = load_saved(tmp_path / "policy").policy
    assert type(again) is POLICIES[kind]
    assert again.action_rule == EpsilonGreedy(epsilon=0.25)
    ours, theirs = (p(observation(), p.initial_state(3)) for p in (built, again))
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.value, theirs.value)


def test_without_a_word_a_saved_policy_is_an_actor_critic_that_draws() -> None:
    old = Path(__file__).parents[1] / "data" / "version_0.1.0" / "ppo" / "policy"
    assert "actions" not in json.loads((old / "config.json").read_text())
    policy = load_saved(old).policy
    assert type(policy) is Policy
    assert policy.action_rule == Sampled()


class Nameless(Policy):
    """Not in POLICIES."""


def test_a_policy_class_without_a_name_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    policy = Nameless(network("actor_critic").config, ENV.spec())
    with pytest.raises(ConfigError, match="Nameless has no name to be loaded by"):
        save_policy(tmp_path / "policy", policy, env=ENV, metadata={})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"network": "q_net"}, r"network: unknown policy 'q_net'\. Did you mean 'q_network'"),
        ({"actions": {"name": "epsilon_greedy", "epsilon": 7}}, r"actions: epsilon: got 7"),
        ({"actions": {"name": "boltzmann"}}, r"actions: name: unknown action rule 'boltzmann'"),
    ],
)
def test_an_unknown_class_or_rule_is_named(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    from fwp_rl.runs.files import write_folder

    save_policy(tmp_path / "policy", network("q_network"), env=ENV, metadata={})
    files = ("policy.safetensors", "config.json")
    held = {name: (tmp_path / "policy" / name).read_bytes() for name in files}
    held["config.json"] = json.dumps(json.loads(held["config.json"]) | change).encode()
    write_folder(tmp_path / "policy", held, kind="policy", about={})
    with pytest.raises((CheckpointError, ConfigError), match=said):
        load_saved(tmp_path / "policy")


def played(path: Path, **asked: Any) -> dict[str, Any]:
    return evaluate(path, games=8, output=path.with_name("x.json"), **asked)


def test_evaluations_play_by_the_policys_rule_or_as_they_are_asked_to(tmp_path: Path) -> None:
    path = tmp_path / "policy"
    save_policy(path, network("q_network"), env=ENV, metadata={"step": 5})
    own, greedy, drawn = (
        played(path, **asked) for asked in ({}, {"greedy": True}, {"actions": "sampled"})
    )
    said = [(r["protocol"]["actions"], r["protocol"]["policy_actions"]) for r in (own, drawn)]
    assert said == [("greedy", "greedy"), ("sampled", "greedy")]
    assert own["returns"] == greedy["returns"]
    chance = played(path, actions="epsilon_greedy")
    assert chance["protocol"]["actions"] == "epsilon_greedy 0.05"
    with pytest.raises(ConfigError, match="actions: unknown action rule 'gredy'"):
        played(path, actions="gredy")
    with pytest.raises(ConfigError, match="expected one of the two"):
        played(path, actions="sampled", greedy=True)


def test_a_film_shows_what_a_q_network_prefers() -> None:
    policy = network("q_network")
    actor = Actor(policy, ENV.make(1, [0]), generator=torch.Generator())
    for moment in play(actor, lambda a: screen_of(a, films=False), games=1, limit=20):
        assert moment.preferences[moment.action] == 1, "it plays greedily"
        assert np.ptp(moment.preferences) == 1
