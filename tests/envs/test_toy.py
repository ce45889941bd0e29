"""The recall task and the scripted environment."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fwp_rl.config import ConfigError
from fwp_rl.envs.toy import RecallConfig, ScriptedConfig, ScriptedEpisode

Act = Callable[[list[NDArray[Any]], RecallConfig], int]
"""What a column does after the observations of its episode up to now."""


def last_cue(seen: list[NDArray[Any]], config: RecallConfig) -> int:
    """Under the key that is asked for; all keys are 0 where there is one."""
    return cues_of(seen, config)[-1]


def first_cue(seen: list[NDArray[Any]], config: RecallConfig) -> int:
    return cues_of(seen, config)[0]


def cues_of(seen: list[NDArray[Any]], config: RecallConfig) -> list[int]:
    n, asked = config.num_cues, seen[-1][config.num_cues : -2]
    shown = [obs for obs in seen if obs[-2] and (obs[n:-2] == asked).all()]
    return [int(obs[:n].argmax()) for obs in shown] if seen[-1][-1] else [0]


def guess(seen: list[NDArray[Any]], config: RecallConfig) -> int:
    """Without memory: by what is seen now alone."""
    return int(seen[-1] @ np.arange(len(seen[-1]))) % config.num_cues


def recall_returns(config: RecallConfig, act: Act, num_steps: int = 400) -> list[float]:
    """Of a policy written by hand, in 8 columns."""
    env = config.make(8, list(range(8)))
    seen = [[obs] for obs in env.reset()]
    returns = []
    for _ in range(num_steps):
        step = env.step(np.array([act(column, config) for column in seen]))
        for column, obs, begins in zip(seen, step.obs, step.reset, strict=True):
            if begins:
                column.clear()
            column.append(obs)
        returns += [game.episode_return for game in step.games]
    return returns


OPTIONS: dict[str, dict[str, Any]] = {
    "a cue": {},
    "many cues": {"num_cues": 11},
    "a limit": {"delay": 5, "time_limit": 7},
    "distractors": {"distractors": True},
    "an exact delay": {"delay": 9},
    "no delay": {"delay": 0},
    "keys": {"num_keys": 3, "min_delay": 2},
    "overwritten": {"overwrites": 2},
    "keys, overwritten": {"num_keys": 2, "overwrites": 3, "delay": 6, "distractors": True},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@every_option
def test_recall_rewards_memory_and_leaves_the_rest_at_chance(options: dict[str, Any]) -> None:
    config = RecallConfig(**{"num_cues": 5, "min_delay": 1, "max_delay": 6} | options)
    assert set(recall_returns(config, last_cue)) == {1.0}
    guesses, chance = recall_returns(config, guess), 1 / config.num_cues
    error = np.sqrt(chance * (1 - chance) / len(guesses))
    assert abs(np.mean(guesses) - chance) < 4 * error


def test_what_is_overwritten_counts_no_more() -> None:
    once = RecallConfig(num_cues=5, overwrites=1, delay=2)
    assert set(recall_returns(once, first_cue)) == {0.0}
    twice = RecallConfig(num_cues=2, overwrites=2, delay=2)  # back to the first: there is no third
    assert set(recall_returns(twice, first_cue)) == {1.0}


@pytest.mark.parametrize("delay", [3, 20])
@pytest.mark.parametrize("num_keys", [1, 3])
def test_the_delay_is_from_the_cue_that_counts(num_keys: int, delay: int) -> None:
    config = RecallConfig(num_keys=num_keys, overwrites=1, delay=delay)
    env = config.make(6, list(range(6)))
    rows = [env.reset(), *(env.step(np.zeros(6, np.int64)).obs for _ in range(300))]
    asked_keys = set()
    for column in np.stack(rows, axis=1):
        queries = np.flatnonzero(column[:, -1])
        for start, query in pairwise([-2, *queries]):  # what follows a query is its dummy
            key = column[query, config.num_cues : -2]
            shown = [t for t in range(start + 2, query) if column[t, -2]]
            assert len(shown) == config.showings
            assert np.diff(shown).tolist() == [1] * (config.showings - 1)
            same = [t for t in shown if (column[t, config.num_cues : -2] == key).all()]
            assert query - same[-1] - 1 == delay
            asked_keys.add(tuple(key))
    assert len(asked_keys) == num_keys


def mixed(x: int) -> int:
    """SplitMix64's output function."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


class Draws:
    def __init__(self, seed: int) -> None:
        self.key, self.count = mixed(seed), 0

    def below(self, n: int) -> int:
        self.count += 1
        return mixed((self.key + self.count * 0x9E3779B97F4A7C15) % 2**64) % n


def recall_by_the_rules(config: RecallConfig, seed: int, actions: list[int]) -> list[Any]:
    """One column, one number at a time: obs, reward, terminated and truncated of every step."""
    n, keys, draws = config.num_cues, config.num_keys, Draws(seed)
    low, high = config.delays
    rows: list[Any] = []
    held: dict[int, int] = {}
    shown: list[tuple[int, int]] = []
    step = reward = asked = query = 0
    ended = (True, False)
    for action in [-1, *actions]:  # the first observation comes before any action
        cue, delay = draws.below(n), low + draws.below(high - low + 1)
        own = Draws(draws.below(2**63)) if config.showings > 1 else Draws(0)
        if any(ended):  # the action is ignored, and an episode begins
            held, shown, reward, step, ended = {}, [], 0, 0, (False, False)
            for i in range(config.showings):
                key = i if i < keys else own.below(keys)
                if i >= keys:
                    cue = (held[key] + 1 + own.below(n - 1)) % n
                elif i:
                    cue = own.below(n)
                held[key] = cue
                shown.append((key, cue))
            asked = own.below(keys)
            query = max(i for i, (key, _) in enumerate(shown) if key == asked) + 1 + delay
        else:
            reward, terminated = int(step == query and action == held[asked]), step == query
            step += 1
            limit = config.time_limit or step + 1
            ended = (terminated, not terminated and step >= limit)
        obs = [0.0] * (n + (keys if keys > 1 else 0) + 2)
        distractor = draws.below(n) if config.distractors else None
        if step < config.showings or step == query:
            key, cue = shown[step] if step < config.showings else (asked, None)
            obs[-1 if cue is None else -2] = 1
            if cue is not None:
                obs[cue] = 1
            if keys > 1:
                obs[n + key] = 1
        elif distractor is not None and step < query:
            obs[distractor] = 1
        rows.append((obs, reward, *ended))
    return rows


@pytest.mark.parametrize("limit", [None, 12])
@every_option
def test_recall_follows_its_rules_draw_by_draw(options: dict[str, Any], limit: int | None) -> None:
    """Another number, or one more, and every run that was made with a seed would be another."""
    config, seeds = RecallConfig(**{"time_limit": limit} | options), [3, 2**31 - 1]
    env = config.make(2, seeds)
    actions = np.random.default_rng(1).integers(config.num_cues, size=(150, 2))
    got: list[list[Any]] = [[(obs, 0, False, False)] for obs in env.reset()]
    for each in actions:
        step = env.step(each)
        answer = zip(step.obs, step.reward, step.terminated, step.truncated, strict=True)
        for rows, row in zip(got, answer, strict=True):
            rows.append(row)
    for column, seed in enumerate(seeds):
        expected = recall_by_the_rules(config, seed, actions[:, column].tolist())
        for row, (obs, *facts) in zip(got[column], expected, strict=True):
            assert row[0].tolist() == obs
            assert list(row[1:]) == facts


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
        ({"delay": -1}, "delay: got -1"),
        ({"num_keys": 0}, "num_keys: got 0"),
        ({"overwrites": -1}, "overwrites: got -1"),
        (
            {"num_keys": 4, "overwrites": 2, "delay": 4},
            r"^delay: got 4, expected at least 5: num_keys \(4\) and overwrites \(2\) are shown",
        ),
        ({"num_keys": 4}, "^min_delay: got 2, expected at least 3: num_keys"),
        ({"delay": 9, "time_limit": 10}, "^time_limit: got 10, expected at least 11 with delay 9"),
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
