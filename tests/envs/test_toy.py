"""The recall task and the scripted environment."""

from typing import Any

import numpy as np
import pytest

from fwp_rl.config import ConfigError
from fwp_rl.envs.toy import RecallConfig, ScriptedConfig, ScriptedEpisode


def recall_returns(config: RecallConfig, policy: str, num_steps: int = 1500) -> list[float]:
    """Returns of a policy written by hand: one that remembers the cue, or one that cannot."""
    env = config.make(8, list(range(8)))
    rng = np.random.default_rng(0)
    obs, memory = env.reset(), np.zeros(8, np.int64)
    returns = []
    for _ in range(num_steps):
        shown = obs[:, -2] == 1
        memory = np.where(shown, obs[:, : config.num_cues].argmax(axis=1), memory)
        action = memory if policy == "remember" else rng.integers(0, config.num_cues, 8)
        step = env.step(action)
        obs = step.obs
        returns += [game.episode_return for game in step.games]
    return returns


@pytest.mark.parametrize("distractors", [False, True])
def test_recall_rewards_memory_and_leaves_the_rest_at_chance(distractors: bool) -> None:
    config = RecallConfig(num_cues=5, min_delay=1, max_delay=6, distractors=distractors)
    assert set(recall_returns(config, "remember")) == {1.0}
    guesses = recall_returns(config, "guess")
    error = np.sqrt(0.2 * 0.8 / len(guesses))
    assert abs(np.mean(guesses) - 0.2) < 4 * error


def test_recall_shows_cue_delay_query_and_the_blank_after_the_end() -> None:
    config = RecallConfig(num_cues=3, min_delay=2, max_delay=5)
    env = config.make(6, list(range(6)))
    rows = [env.reset()]
    steps = [env.step(np.zeros(6, np.int64)) for _ in range(400)]
    rows += [step.obs for step in steps]
    obs, mask = np.stack(rows), np.stack([step.mask for step in steps])
    lengths, cues = [], []
    for column in range(6):
        start = 0
        for end in np.flatnonzero(~mask[:, column]).tolist():
            episode = obs[start : end + 1, column]  # the observation of the dummy included
            assert episode[0, :3].sum() == 1
            cues.append(int(episode[0, :3].argmax()))
            np.testing.assert_array_equal(episode[1:, :3], 0)
            np.testing.assert_array_equal(episode[:, 3].nonzero()[0], [0])
            np.testing.assert_array_equal(episode[:, 4].nonzero()[0], [len(episode) - 2])
            np.testing.assert_array_equal(episode[-1], 0)
            lengths.append(len(episode) - 1)
            start = end + 1
    assert set(lengths) == {4, 5, 6, 7}, "cue, a delay of 2 to 5, query"
    assert min(np.bincount(cues, minlength=3)) > 0.25 * len(cues)


def test_recall_at_the_time_limit_shows_what_would_have_come() -> None:
    config = RecallConfig(num_cues=3, min_delay=2, max_delay=2, time_limit=3)
    env = config.make(1, [0])
    env.reset()
    steps = [env.step(np.zeros(1, np.int64)) for _ in range(4)]
    assert [bool(step.truncated[0]) for step in steps] == [False, False, True, False]
    assert steps[2].obs[0, -1] == 1, "the query, which the episode did not reach"
    assert steps[2].games[0].truncated
    assert steps[3].obs[0, -2] == 1, "the cue of the next episode"


def test_recall_answered_on_the_last_allowed_step_is_terminated() -> None:
    config = RecallConfig(num_cues=3, min_delay=2, max_delay=2, time_limit=4)
    env = config.make(1, [0])
    env.reset()
    last = [env.step(np.zeros(1, np.int64)) for _ in range(4)][-1]
    assert last.terminated[0]
    assert not last.truncated[0]
    assert not last.games[0].truncated


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_cues": 1}, "num_cues: got 1"),
        ({"min_delay": -1}, "min_delay: got -1"),
        ({"min_delay": 5, "max_delay": 4}, "max_delay: got 4, expected at least min_delay = 5"),
        ({"time_limit": 0}, "time_limit: got 0"),
    ],
)
def test_recall_refuses_bad_fields(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RecallConfig(**arguments)


def test_scripted_plays_its_script_and_counts() -> None:
    config = ScriptedConfig(
        columns=(
            (
                ScriptedEpisode(rewards=(1.0, 2.0), end="life_lost"),
                ScriptedEpisode(rewards=(4.0,), end="truncated"),
            ),
            (ScriptedEpisode(rewards=(8.0, 16.0, 32.0)),),
        )
    )
    env = config.make(2, [0, 0])
    obs = [env.reset()]
    steps = [env.step(np.zeros(2, np.int64)) for _ in range(6)]
    obs += [step.obs for step in steps]
    left = [tuple(row[0].astype(int)) for row in obs]
    assert left == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0), (0, 1, 1), (0, 2, 0), (0, 2, 1)]
    right = [tuple(row[1].astype(int)) for row in obs]
    assert right == [(1, 0, 0), (1, 0, 1), (1, 0, 2), (1, 0, 3), (1, 1, 0), (1, 1, 1), (1, 1, 2)]
    assert [float(step.reward[0]) for step in steps] == [1, 2, 0, 4, 0, 1]
    assert [float(step.reward[1]) for step in steps] == [8, 16, 32, 0, 8, 16]
    assert [bool(step.terminated[0]) for step in steps] == [False, True, *[False] * 4]
    assert [bool(step.truncated[0]) for step in steps] == [False, False, False, True, False, False]
    games = [(t, game) for t, step in enumerate(steps) for game in step.games]
    assert [(t, g.column, g.episode_return, g.length, g.truncated) for t, g in games] == [
        (2, 1, 56.0, 3, False),
        (3, 0, 7.0, 3, True),
    ]


def test_scripted_refuses_empty_scripts() -> None:
    with pytest.raises(ConfigError, match="rewards: got none"):
        ScriptedEpisode(rewards=())
    with pytest.raises(ConfigError, match="end: got 'over', expected one of"):
        ScriptedEpisode(rewards=(1.0,), end="over")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="columns"):
        ScriptedConfig(columns=((),))
