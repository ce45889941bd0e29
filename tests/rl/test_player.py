"""A policy on anybody's loop does what this project's own loop does."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import fwp_rl
from fwp_rl.config import ConfigError
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.rnn import GRUConfig
from fwp_rl.envs import EnvConfig, Game
from fwp_rl.envs.classic import ClassicConfig
from fwp_rl.envs.gym import GymnasiumConfig
from fwp_rl.envs.toy import RecallConfig, ScriptedConfig, ScriptedEpisode
from fwp_rl.evaluation import make_actor, play
from fwp_rl.models.actions import asked_rule
from fwp_rl.models.encoders import MLPConfig
from fwp_rl.models.policy import Policy, PolicyConfig
from fwp_rl.rl.player import Player, load_player
from fwp_rl.runs.policy import load_policy, load_saved, save_policy
from fwp_rl.runs.seeding import env_seeds

RECALL = RecallConfig(max_delay=3, time_limit=4)
LIVES = ScriptedConfig(
    columns=(
        (
            ScriptedEpisode(rewards=(1.0, -2.0, 0.5)),
            ScriptedEpisode(rewards=(3.0,), end="life_lost"),
            ScriptedEpisode(rewards=(0.0, 4.0), end="truncated"),
        ),
    )
)
CPU = torch.device("cpu")


def make_policy(env: EnvConfig, **fields: Any) -> Policy:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 8, "heads": 2, "head_size": 4, "feedforward_size": 8}
    config: dict[str, Any] = {
        "encoder": MLPConfig(hidden_sizes=(16,)),
        "core": DeltaNetConfig(layers=1, **sizes),
        "last_action": True,
    }
    policy = Policy(PolicyConfig(**config | fields), env.spec())
    torch.nn.init.normal_(policy.policy_head.weight)  # all actions happen, and depend on memory
    return policy


def on_our_loop(
    policy: Policy, env: EnvConfig, columns: int, steps: int, *, seed: int, greedy: bool
) -> tuple[NDArray[np.int64], list[Game]]:
    """Actions [T, B] and games of the loop that evaluations run."""
    made = env.make(columns, env_seeds(seed, columns, stream="evaluation"))
    rule = asked_rule(None, greedy=greedy)
    actor = make_actor(policy, made, rule=rule, seed=seed, device=CPU)
    played = [actor.step() for _ in range(steps)]
    actions = np.stack([step.action.numpy() for step in played])
    return actions, [game for step in played for game in step.answer.games]


def on_gymnasiums(
    policy: Policy, env: EnvConfig, columns: int, steps: int, *, seed: int, greedy: bool
) -> tuple[NDArray[np.int64], list[tuple[int, float, int, bool]]]:
    """The same of a player in ``fwp_rl.make``'s environments."""
    envs, player = fwp_rl.make(env, columns), Player(policy, greedy=greedy, seed=seed)
    (obs, info), reward = envs.reset(seed=seed), None
    player.reset()
    actions, games = [], []
    for _ in range(steps):
        actions.append(player.act(obs, reward))
        obs, reward, _, _, info = envs.step(actions[-1])
        player.reset(info["reset"])
        for column in np.flatnonzero(info.get("_game_return", [])).tolist():
            names = ("game_return", "game_length", "game_truncated")
            games.append((column, *(info[name][column].item() for name in names)))
    envs.close()
    return np.stack(actions), games


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("env", [RECALL, LIVES, ClassicConfig(task="CartPole-v1")])
def test_a_player_plays_what_the_evaluation_plays(env: EnvConfig, greedy: bool) -> None:
    policy = make_policy(env)
    columns = 1 if env is LIVES else 5
    expected, games = on_our_loop(policy, env, columns, 90, greedy=greedy, seed=4)
    actions, found = on_gymnasiums(policy, env, columns, 90, greedy=greedy, seed=4)
    np.testing.assert_array_equal(actions, expected)
    assert games
    wanted = [(g.column, g.episode_return, g.length, g.truncated) for g in games]
    assert found == wanted


def test_the_returns_are_those_of_an_evaluation() -> None:
    policy = make_policy(RECALL)
    played = play(policy, RECALL, games=12, seed=9, device=CPU, quiet=True)
    assert (played.columns, played.games_per_column) == (12, 1)
    _, found = on_gymnasiums(policy, RECALL, 12, 6, greedy=False, seed=9)
    wanted = [(g.column, g.episode_return, g.length, g.truncated) for g in played.games]
    assert [game for n, game in enumerate(found) if game[0] not in {g[0] for g in found[:n]}] == (
        wanted
    )


def test_one_environment_is_a_column_of_many() -> None:
    policy = make_policy(RECALL)
    expected, _ = on_our_loop(policy, RECALL, 1, 40, greedy=False, seed=2)
    envs, player = fwp_rl.make(RECALL), Player(policy, seed=2)
    (obs, _), reward, actions = envs.reset(seed=2), None, []
    player.reset()
    for _ in range(40):
        action = player.act(obs[0], reward)
        assert type(action) is int
        actions.append(action)
        obs, rewards, _, _, info = envs.step(np.array([action]))
        reward = float(rewards[0])
        player.reset(bool(info["reset"][0]))
    assert actions == expected[:, 0].tolist()


def test_a_loop_that_resets_at_once_needs_no_dummy() -> None:
    """Gymnasium's plain loop: every episode is as it would be with a new player."""
    policy = make_policy(RECALL)
    rng = np.random.default_rng(0)
    episodes = [rng.normal(size=(5, 6)).astype(np.float32) for _ in range(3)]
    player, apart = Player(policy, greedy=True), []
    together = []
    for obs in episodes:
        player.reset()
        together.append([player.act(o, t and 0.5) for t, o in enumerate(obs)])
        alone = Player(policy, greedy=True)
        alone.reset()
        apart.append([alone.act(o, t and 0.5) for t, o in enumerate(obs)])
    assert together == apart


def test_environments_that_begin_anew_leave_the_others_alone() -> None:
    policy = make_policy(RECALL)
    obs = np.random.default_rng(1).normal(size=(9, 3, 6)).astype(np.float32)
    reward = np.random.default_rng(2).normal(size=(9, 3))
    mixed, steady = Player(policy, greedy=True), Player(policy, greedy=True)
    mixed.reset()
    steady.reset()
    for t in range(9):
        if t == 4:
            mixed.reset(np.array([False, True, False]))
        a = mixed.act(obs[t], reward[t] if t else None)
        b = steady.act(obs[t], reward[t] if t else None)
        np.testing.assert_array_equal(a[[0, 2]], b[[0, 2]])
    fresh = Player(policy, greedy=True)
    fresh.reset()
    for t in range(4, 9):
        last = fresh.act(obs[t], reward[t] if t > 4 else None)
    assert last[1] == a[1]


OBS = np.zeros((2, 6), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p: p.act(OBS.astype(np.float64), np.zeros(2)),
            "obs has dtype float64, expected",
        ),
        (lambda p: p.act(OBS[:, :5], np.zeros(2)), r"obs has shape \(2, 5\), expected \(6,\)"),
        (lambda p: p.act(OBS[None], np.zeros(2)), r"expected \(6,\) for one .* or \(B, 6\)"),
        (lambda p: p.act(OBS[:0], np.zeros(0)), r"obs has shape \(0, 6\)"),
        (lambda p: p.act(OBS[:1], np.zeros(1)), "so far they were 2 environments"),
        (lambda p: p.act(OBS[0], 0.0), "so far they were 2 environments"),
        (lambda p: p.act(OBS + np.nan, np.zeros(2)), "obs holds NaN"),
        (lambda p: p.act(OBS), "reward is missing"),
        (lambda p: p.act(OBS, 0.0), r"reward is float64 \(\), expected numbers \(2,\)"),
        (lambda p: p.act(OBS, ["a", "b"]), r"reward is <U1"),
        (lambda p: p.act(OBS, np.array([0, np.inf])), "reward holds NaN or infinity"),
        (lambda p: p.act(OBS, np.array([0, 1e300])), "reward holds NaN or infinity"),
        (lambda p: p.reset(np.array([1, 0])), r"mask is int64 \(2,\), expected bool \(2,\)"),
        (lambda p: p.reset(True), r"mask is bool \(\), expected bool \(2,\)"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line_and_changes_nothing(
    call: Callable[[Player], object], message: str
) -> None:
    policy = make_policy(RECALL)
    player, other = Player(policy), Player(policy)
    for each in (player, other):
        each.reset()
        each.act(OBS)
    with pytest.raises(ValueError, match=message) as error:
        call(player)
    assert "\n" not in str(error.value)
    for _ in range(3):
        expected = other.act(OBS + 1, np.ones(2))
        np.testing.assert_array_equal(player.act(OBS + 1, np.ones(2)), expected)


def test_a_missing_reset_is_said() -> None:
    player = Player(make_policy(RECALL))
    with pytest.raises(RuntimeError, match=r"act\(\) before reset\(\)"):
        player.act(OBS)
    with pytest.raises(RuntimeError, match=r"reset\(mask\) before the first act"):
        player.reset(np.ones(2, np.bool_))


def test_after_a_reset_of_all_there_may_be_another_number() -> None:
    player = Player(make_policy(RECALL))
    player.reset()
    assert player.act(OBS).shape == (2,)
    player.reset()
    assert player.act(np.zeros((3, 6), np.float32)).shape == (3,)
    player.reset()
    assert player.act(OBS[0]) in range(4)


def test_a_policy_that_reads_no_reward_needs_none() -> None:
    player = Player(make_policy(RECALL, last_reward=False, core=GRUConfig(hidden_size=4)))
    player.reset()
    assert [player.act(OBS).shape for _ in range(3)] == [(2,)] * 3


def test_neither_policy_nor_player_needs_the_environment(tmp_path: Path) -> None:
    """Its weights, its spec and its network are all of it."""
    gymnasium.register("Gone-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=9)
    env = GymnasiumConfig(id="Gone-v0")
    save_policy(tmp_path / "policy", make_policy(env), env=env, metadata={})
    assert load_saved(tmp_path / "policy").env == env
    del gymnasium.registry["Gone-v0"]
    assert load_policy(tmp_path / "policy").spec == env.spec()
    player = load_player(tmp_path / "policy", greedy=True)
    player.reset()
    assert player.act(np.zeros(4, np.float32)) in (0, 1)
    for ask in (
        lambda: load_saved(tmp_path / "policy").env,
        lambda: fwp_rl.make(tmp_path / "policy"),
    ):
        with pytest.raises(ConfigError, match=r"config\.json: env: id: got 'Gone-v0'.*--import"):
            ask()


def test_a_player_imports_no_environments_and_no_terminal(tmp_path: Path) -> None:
    save_policy(tmp_path / "policy", make_policy(RECALL), env=RECALL, metadata={})
    program = (
        "import sys, numpy, fwp_rl\n"
        "player = fwp_rl.load_player(sys.argv[1])\n"
        "player.reset()\n"
        "player.act(numpy.zeros(6, numpy.float32))\n"
        "print(*(m for m in ('envpool', 'gymnasium', 'rich', 'tyro') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "policy")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
