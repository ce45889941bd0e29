"""The Atari protocols on the real envpool: what an environment says of its episodes and games is
compared with a replay of each of its columns alone, and with what the bare pool's counters say."""

import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import envpool
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.envs.atari import PROTOCOLS, AtariConfig
from fwp_rl.runs.presets import config_to_dict, env_config_from_dict, load_preset

ENVPOOL: dict[str, dict[str, Any]] = {
    "classic": {
        "frame_skip": 4,
        "full_action_space": False,
        "repeat_action_probability": 0.0,
        "episodic_life": True,
        "noop_max": 30,
        "use_fire_reset": True,
    },
    "machado": {
        "frame_skip": 4,
        "full_action_space": True,
        "repeat_action_probability": 0.25,
        "episodic_life": False,
        "noop_max": 1,
        "use_fire_reset": False,
    },
    "machado_2018": {
        "frame_skip": 5,
        "full_action_space": True,
        "repeat_action_probability": 0.25,
        "episodic_life": False,
        "noop_max": 1,
        "use_fire_reset": False,
    },
}
"""The protocols in envpool's words."""

GAMES: dict[str, tuple[int, int, str]] = {
    "Boxing": (600, 200, "limit"),
    "Breakout": (800, 420, "over lost limit"),
    "Enduro": (600, 200, "limit"),
    "Freeway": (600, 200, "limit"),
    "MontezumaRevenge": (1500, 390, "over lost limit"),
    "MsPacman": (1800, 460, "over lost limit"),
    "Pong": (3200, 810, "over limit"),
    "Qbert": (1300, 340, "over lost limit"),
    "RoadRunner": (1000, 400, "over lost limit"),
    "Seaquest": (1500, 390, "over lost limit"),
    "SpaceInvaders": (2300, 585, "over lost limit"),
    "WizardOfWor": (2000, 510, "over lost limit"),
}
"""Game → frames until it is cut, steps to play, and what has to be seen in them: games that are
over and lives that are lost, where that is soon, and games that are cut."""

HOLD = 40
"""Steps for which the last column holds each of its actions; the others draw one at each step."""


@dataclass
class Record:
    """What B columns said, along time.

    screens  [T + 1, B]  a checksum of each observation
    reset    [T + 1, B]
    reward, terminated, truncated, mask  [T, B]
    games    of each column: (step, return, length, truncated)
    """

    screens: NDArray[np.uint32]
    reset: NDArray[np.bool_]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    mask: NDArray[np.bool_]
    games: list[list[tuple[int, float, int, bool]]]


def checksums(obs: NDArray[np.uint8]) -> list[int]:
    return [zlib.crc32(column.tobytes()) for column in obs]


def play(config: AtariConfig, seeds: list[int], actions: NDArray[np.int64]) -> Record:
    """actions [T, B]"""
    env = config.make(len(seeds), seeds)
    screens = [checksums(env.reset())]
    steps = []
    games: list[list[tuple[int, float, int, bool]]] = [[] for _ in seeds]
    for t, action in enumerate(actions):
        step = env.step(action)
        screens.append(checksums(step.obs))
        for game in step.games:
            games[game.column].append((t, game.episode_return, game.length, game.truncated))
        steps.append(step)
    env.close()
    return Record(
        screens=np.array(screens, np.uint32),
        reset=np.stack([np.ones(len(seeds), np.bool_)] + [step.reset for step in steps]),
        reward=np.stack([step.reward for step in steps]),
        terminated=np.stack([step.terminated for step in steps]),
        truncated=np.stack([step.truncated for step in steps]),
        mask=np.stack([step.mask for step in steps]),
        games=games,
    )


@dataclass
class Counters:
    """What the bare pool counts: elapsed_step and lives [T + 1, B], the rest [T, B]. None of its
    two flags for the end of an episode is used for the truth, ``ended`` is checked against it."""

    screens: NDArray[np.uint32]
    elapsed_step: NDArray[np.int32]
    lives: NDArray[np.int32]
    reward: NDArray[np.float32]
    game_over: NDArray[np.bool_]
    ended: NDArray[np.bool_]


def play_bare(config: AtariConfig, seeds: list[int], actions: NDArray[np.int64]) -> Counters:
    rules = ENVPOOL[config.protocol]
    pool = envpool.make(
        f"{config.game}-v5",
        env_type="gymnasium",
        num_envs=len(seeds),
        seed=seeds,
        stack_num=4,
        max_episode_steps=limit_in_steps(config),
        **rules,
    )
    obs, info = pool.reset()
    screens, infos, ended = [checksums(obs)], [info], []
    for action in actions.astype(np.int32):
        obs, _, terminated, truncated, info = pool.step(action)
        screens.append(checksums(obs))
        infos.append(info)
        ended.append(terminated | truncated)
    return Counters(
        screens=np.array(screens, np.uint32),
        elapsed_step=np.stack([info["elapsed_step"] for info in infos]),
        lives=np.stack([info["lives"] for info in infos]),
        reward=np.stack([info["reward"] for info in infos[1:]]),
        game_over=np.stack([info["terminated"] == 1 for info in infos[1:]]),
        ended=np.stack(ended),
    )


def limit_in_steps(config: AtariConfig) -> int:
    return config.rules.max_frames // int(ENVPOOL[config.protocol]["frame_skip"])


Events = dict[str, NDArray[np.bool_]]


def events(truth: Counters, column: int, config: AtariConfig) -> Events:
    """What happened in one column, over all of its time, each [T]: steps that were played, games
    that were over, at the limit, lives lost, games that ended inside the hidden no-ops."""
    lives, elapsed = truth.lives[:, column], truth.elapsed_step[:, column]
    played = np.diff(elapsed) == 1
    over = played & truth.game_over[:, column]
    at_limit = played & (elapsed[1:] == limit_in_steps(config))
    after_a_game = np.concatenate([[False], (over | at_limit)[:-1]])
    return {
        "played": played,
        "over": over,
        "limit": at_limit,
        "lost": played & (np.diff(lives) < 0) & ~over,
        "hidden": ~played & ~after_a_game & (np.diff(lives) > 0),
    }


def check_column(said: Record, truth: Counters, column: int, config: AtariConfig) -> None:
    """One column's flags and games against the emulator's counters."""
    happened = events(truth, column, config)
    played, over, at_limit = happened["played"], happened["over"], happened["limit"]
    life_end = happened["lost"] & (truth.lives[1:, column] > 0)
    life_end &= ENVPOOL[config.protocol]["episodic_life"]
    ended = over | at_limit | life_end
    reward = truth.reward[:, column]

    np.testing.assert_array_equal(truth.ended[:, column], ended)
    np.testing.assert_array_equal(said.screens[:, column], truth.screens[:, column])
    np.testing.assert_array_equal(said.mask[:, column], played)
    np.testing.assert_array_equal(said.mask[1:, column], ~ended[:-1])
    np.testing.assert_array_equal(said.reset[:, column], [True, *~played])
    np.testing.assert_array_equal(said.reward[:, column], reward)
    assert (reward[~played] == 0).all()
    np.testing.assert_array_equal(said.terminated[:, column], over | life_end)
    np.testing.assert_array_equal(said.truncated[:, column], at_limit & ~over & ~life_end)

    games, start = [], 0
    for t in np.flatnonzero(over | at_limit | happened["hidden"]).tolist():
        game = slice(start, t + 1)
        cut = bool(at_limit[t] and not over[t])
        games.append((t, float(reward[game].sum()), int(played[game].sum()), cut))
        start = t + 1
    assert said.games[column] == games


def assert_same_column(together: Record, alone: Record, column: int) -> None:
    for name in ("screens", "reset", "reward", "terminated", "truncated", "mask"):
        expected = getattr(alone, name)[:, 0]
        np.testing.assert_array_equal(getattr(together, name)[:, column], expected, err_msg=name)
    assert together.games[column] == alone.games[0]


def check_game(config: AtariConfig, seeds: list[int], actions: NDArray[np.int64]) -> list[Events]:
    """All columns together, each alone, and the bare pool. Returns what happened in each."""
    together = play(config, seeds, actions)
    truth = play_bare(config, seeds, actions)
    columns = range(len(seeds))
    for column in columns:
        check_column(together, truth, column, config)
    with ThreadPoolExecutor() as threads:
        alone = threads.map(
            lambda column: play(config, [seeds[column]], actions[:, column : column + 1]), columns
        )
        for column, replay in enumerate(alone):
            assert_same_column(together, replay, column)
    return [events(truth, column, config) for column in columns]


def kinds(happened: list[Events]) -> set[str]:
    return {kind for column in happened for kind, where in column.items() if where.any()}


def road_runner(max_frames: int) -> tuple[AtariConfig, list[int], NDArray[np.int64]]:
    """Config, seeds and actions [T, 2] of Road Runner: at random, and standing in the way, where
    a last life goes inside the hidden no-ops."""
    actions = np.random.default_rng(0).integers(0, 18, (206, 2))
    actions[:, 1] = 3
    return AtariConfig(game="RoadRunner", max_frames=max_frames), [2, 14], actions


def test_columns_agree_with_themselves_alone_and_with_the_bare_pool() -> None:
    assert kinds(check_game(*road_runner(400))) >= {"over", "limit", "lost", "hidden"}


@pytest.mark.parametrize("kind", ["over", "lost"])
def test_a_game_over_or_a_life_lost_on_the_very_step_of_the_limit(kind: str) -> None:
    config, seeds, actions = road_runner(108_000)
    seeds, actions = seeds[1:], actions[:, 1:]
    free = play_bare(config, seeds, actions)
    t = int(np.flatnonzero(events(free, 0, config)[kind])[0])
    limit = 4 * int(free.elapsed_step[t + 1, 0])
    (happened,) = check_game(replace(config, max_frames=limit), seeds, actions[: t + 10])
    assert happened[kind][t]
    assert happened["limit"][t]


def _every_pair() -> list[Any]:
    """Each game under the classic protocol and, by turns, one of Machado's; the others by hand."""
    pairs = []
    for n, game in enumerate(GAMES):
        for protocol in PROTOCOLS:
            by_hand = protocol == ("machado", "machado_2018")[n % 2]
            mark = pytest.mark.long if by_hand else pytest.mark.slow
            pairs.append(pytest.param(game, protocol, marks=mark))
    return pairs


@pytest.mark.parametrize(("game", "protocol"), _every_pair())
def test_every_game_agrees_under_every_protocol(game: str, protocol: Any) -> None:
    max_frames, num_steps, expected = GAMES[game]
    config = AtariConfig(game=game, protocol=protocol, max_frames=max_frames)
    rng = np.random.default_rng(zlib.crc32(game.encode()))
    seeds = rng.integers(0, 2**31, 3).tolist()
    actions = rng.integers(0, config.spec().num_actions, (num_steps, 3))
    actions[:, -1] = np.repeat(actions[::HOLD, -1], HOLD)[:num_steps]
    assert kinds(check_game(config, seeds, actions)) >= set(expected.split())


def test_the_protocols_in_our_words_and_in_envpools_are_the_same() -> None:
    assert set(ENVPOOL) == set(PROTOCOLS)
    for name, rules in PROTOCOLS.items():
        assert rules.max_frames == 108_000, "30 minutes at 60 frames a second"
        described = AtariConfig(game="Pong", protocol=name).make(1, [0]).describe()  # type: ignore[arg-type]
        expected = ENVPOOL[name] | {"max_episode_steps": 108_000 // rules.frame_skip}
        assert {rule: described[rule] for rule in expected} == pytest.approx(expected)
        assert described["protocol"] == name
        assert described["rules"] == asdict(rules)
        assert described["changed_rules"] == {}


CHANGES: dict[str, Any] = {
    "frame_skip": 3,
    "full_action_space": False,
    "sticky_actions": 0.1,
    "episodic_life": True,
    "noop_max": 7,
    "fire_reset": False,
    "max_frames": 18_000,
}


def test_a_changed_rule_is_named_beside_the_protocol() -> None:
    machado = AtariConfig(protocol="machado")
    assert set(CHANGES) == set(asdict(machado.rules))
    for rule, value in CHANGES.items():
        config = AtariConfig(protocol="machado", **{rule: value})
        if rule == "fire_reset":
            assert config.changed_rules == {}, "the protocol's own value changes nothing"
        else:
            assert config.changed_rules == {rule: value}
        assert asdict(config.rules) == asdict(machado.rules) | {rule: value}
    changed = AtariConfig(protocol="machado", episodic_life=True, sticky_actions=0.25)
    described = changed.make(1, [0]).describe()
    assert described["protocol"] == "machado"
    assert described["changed_rules"] == {"episodic_life": True}
    assert described["rules"]["episodic_life"] is described["episodic_life"] is True


def test_a_rule_set_as_the_protocol_has_it_is_the_protocols() -> None:
    """So that an old config, which says all of them, is the same as one that says none; and that
    one flag gives it another protocol."""
    for name, rules in PROTOCOLS.items():
        plain = AtariConfig(protocol=name)  # type: ignore[arg-type]
        assert AtariConfig(protocol=name, **asdict(rules)) == plain  # type: ignore[arg-type]
    old = AtariConfig(**asdict(PROTOCOLS["classic"]))
    assert replace(old, protocol="machado").rules == PROTOCOLS["machado"]
    kept = replace(AtariConfig(frame_skip=2), protocol="machado")
    assert kept.rules == replace(PROTOCOLS["machado"], frame_skip=2)


def test_a_stored_config_means_the_same_when_a_protocol_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = AtariConfig(protocol="machado", noop_max=3)
    stored, before = config_to_dict(config), config.rules
    assert stored["sticky_actions"] == 0.25
    monkeypatch.setitem(PROTOCOLS, "machado", replace(PROTOCOLS["machado"], sticky_actions=0.5))
    again = env_config_from_dict(stored)
    assert isinstance(again, AtariConfig)
    assert again.rules == before
    assert again.changed_rules == {"noop_max": 3, "sticky_actions": 0.25}


def test_the_terms_of_play_name_protocol_rules_backend_and_screens() -> None:
    terms = AtariConfig(protocol="machado", frame_skip=2, flicker=0.5, backend="ale").terms()
    assert "machado, but frame_skip 2, flicker 0.5" in terms
    assert "sticky_actions 0.25" in terms
    assert terms.endswith("ale, 1 screen")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocol_and_changes_survive_yaml(protocol: Any, tmp_path: Path) -> None:
    plain = AtariConfig(game="Qbert", protocol=protocol)
    changed = AtariConfig(game="Qbert", protocol=protocol, frame_skip=2, noop_max=5, flicker=0.5)
    for config in (plain, changed):
        text = yaml.safe_dump(config_to_dict(config))
        again = env_config_from_dict(yaml.safe_load(text))
        assert again == config
        assert isinstance(again, AtariConfig)
        assert again.changed_rules == config.changed_rules
        assert again.rules == config.rules
    preset = tmp_path / "mine.yaml"
    env = f"{{name: atari, game: ms_pacman, protocol: {protocol}, noop_max: 3}}"
    preset.write_text(f"agent: ppo\nenv: {env}\n", encoding="utf-8")
    trained = load_preset(str(preset))
    assert isinstance(trained, PPOConfig)
    assert trained.env == AtariConfig(game="MsPacman", protocol=protocol, noop_max=3)


def test_machado_without_stickiness_is_the_same_for_every_seed() -> None:
    """No no-op starts and no other chance: seeds differ in nothing but their sticky actions."""
    config = AtariConfig(game="Seaquest", protocol="machado")
    assert config.spec().num_actions == 18
    actions = np.repeat(np.random.default_rng(3).integers(0, 18, (40, 1)), 3, axis=1)
    sticky = play(config, [1, 2, 3], actions).screens
    certain = play(replace(config, sticky_actions=0.0), [1, 2, 3], actions).screens
    assert (certain == certain[:, :1]).all()
    assert len(set(sticky[0])) == 1, "all games start alike"
    assert len(set(sticky[-1])) == 3


def test_machado_presses_no_fire() -> None:
    """Breakout waits for FIRE, and loses no life until it is pressed."""
    fire, num_steps = 1, 60

    def held(action: int) -> Record:
        config = AtariConfig(game="Breakout", protocol="machado", max_frames=4 * num_steps)
        return play(config, [0], np.full((num_steps, 1), action))

    waiting, playing = held(0), held(fire)
    assert len(set(waiting.screens[5:-1, 0])) == 1, "nothing moves"
    assert len(set(playing.screens[5:-1, 0])) > 25
    assert not waiting.terminated.any()


@pytest.mark.slow
def test_sticky_actions_are_drawn_at_each_emulator_frame() -> None:
    """Freeway's chicken moves by one row for each frame in which UP is played. After no action, UP
    comes late by k frames with probability p^k (1 - p) if each frame draws; drawn once for the
    step, it would come at once or not at all."""
    up, p = 2, 0.25

    def screens(sticky_actions: float, num_envs: int, num_games: int) -> list[int]:
        """After one step of UP, of many games of one step."""
        config = AtariConfig(
            game="Freeway", protocol="machado", sticky_actions=sticky_actions, max_frames=4
        )
        actions = np.full((2 * num_games, num_envs), up)
        record = play(config, list(range(num_envs)), actions)
        assert record.truncated[::2].all()
        return record.screens[1::2].reshape(-1).tolist()

    moved, still = set(screens(0.0, 1, 2)), set(screens(1.0, 1, 2))
    assert len(moved) == len(still) == 1
    drawn = screens(p, 8, 30)
    counts = sorted(((drawn.count(screen), screen) for screen in set(drawn)), reverse=True)
    assert counts[0][1] in moved
    for k in (0, 1, 2):
        share = p**k * (1 - p)
        deviation = np.sqrt(share * (1 - share) / len(drawn))
        assert abs(counts[k][0] / len(drawn) - share) < 4 * deviation, k
    never = sum(count for count, screen in counts if screen in still) / len(drawn)
    assert never < p / 2, "p^4 = 0.004; drawn once for the step it would be p"
