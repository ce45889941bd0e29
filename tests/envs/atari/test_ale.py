"""Atari on the real ale-py. What it shares with envpool's is in test_backends_agree.py."""

import hashlib
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import ale_py
import numpy as np
import pytest
from ale_py import roms
from numpy.typing import NDArray

from fwp_rl.config import ConfigError
from fwp_rl.envs import ActionError, EnvStep
from fwp_rl.envs.atari import GAMES, AtariConfig
from fwp_rl.envs.atari import config as atari_config
from fwp_rl.envs.atari.ale import AleEnv
from fwp_rl.machine import usable_cores

FIRE = 1


def ale_config(**arguments: Any) -> AtariConfig:
    return AtariConfig(backend="ale", **{"game": "Breakout", **arguments})


def play(
    config: AtariConfig,
    action: int,
    num_steps: int,
    seeds: tuple[int, ...] = (0,),
    **arguments: Any,
) -> tuple[NDArray[np.uint8], list[EnvStep]]:
    """All steps of one repeated action, and the first observation in front."""
    env = config.make(len(seeds), seeds, **arguments)
    first = env.reset()
    return first, [env.step(np.full(len(seeds), action)) for _ in range(num_steps)]


def flag(steps: list[EnvStep], name: str, column: int = 0) -> list[int]:
    """The step numbers at which a flag of a column is up."""
    return [t for t, step in enumerate(steps) if getattr(step, name)[column]]


def run_script(script: str) -> str:
    """Run Python code where a crash or a hang harms nobody."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def check_actions_of(game: str) -> ale_py.ALEInterface:
    """Returns the bare emulator with the game in it."""
    minimal = ale_config(game=game, fire_reset=False)
    full = replace(minimal, full_action_space=True)
    env = minimal.make(1, [0])
    env.reset()
    assert env.step(np.zeros(1, np.int64)).mask[0]
    ale = ale_py.ALEInterface()
    ale.loadROM(roms.get_rom_path(env.describe()["task_id"]))
    assert minimal.spec().num_actions == len(ale.getMinimalActionSet()), game
    assert full.spec().num_actions == len(ale.getLegalActionSet()), game
    return ale


@pytest.mark.parametrize("game", ["MsPacman", "TicTacToe3d", "Skiing", "Backgammon"])
def test_a_game_is_found_by_its_name_and_has_the_actions_of_its_spec(game: str) -> None:
    check_actions_of(game)


@pytest.mark.long
def test_ale_py_has_every_game_of_envpool_with_the_same_number_of_actions() -> None:
    tall, no_noop = [], {}
    for game in GAMES:
        ale = check_actions_of(game)
        if ale.getScreenDims()[0] > 210:
            tall.append(game)
        first = ale.getMinimalActionSet()[0]
        if first != ale_py.Action.NOOP:
            no_noop[game] = ale.lives()
    assert len(tall) == 13
    assert {"Adventure", "KingKong"} <= set(tall)
    assert no_noop == {"Backgammon": 1, "VideoCheckers": 1}, "they lose no life but the last"


def test_a_game_that_ale_py_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roms, "get_all_rom_ids", lambda: ["pong"])
    with pytest.raises(ConfigError, match="ale-py does not have Breakout; use backend 'envpool'"):
        ale_config().make(1, [0])


def test_other_actions_than_envpools_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(atari_config.MINIMAL_ACTIONS, "Breakout", 6)
    with pytest.raises(ConfigError, match="ale-py has 4 actions for Breakout, expected 6"):
        ale_config().make(1, [0])


def test_a_lost_life_ends_the_episode_and_not_the_game() -> None:
    _, steps = play(ale_config(), FIRE, 160)
    ends = flag(steps, "terminated")
    games = [(t, game) for t, step in enumerate(steps) for game in step.games]
    assert len(games) >= 1
    assert [t for t, _ in games] == ends[4::5], "a game of Breakout has five lives"
    last, game = games[0]
    assert game.episode_return == sum(float(step.reward[0]) for step in steps[: last + 1])
    assert game.length == last + 1 - 4, "four dummies are not counted"
    whole = play(ale_config(episodic_life=False), FIRE, 160)[1]
    first_end = flag(whole, "terminated")[0]
    assert [game.column for game in whole[first_end].games] == [0]
    assert not any(step.games for step in whole[:first_end])


def test_the_observation_of_a_dummy_is_the_last_of_its_episode() -> None:
    first, steps = play(ale_config(), FIRE, 160)
    obs = np.stack([first] + [step.obs for step in steps])[:, 0]
    assert (obs[0] == obs[0, :1]).all()
    game_ends = {t for t, step in enumerate(steps) if step.games}
    assert game_ends
    for t, step in enumerate(steps):
        if t - 1 in game_ends:  # a new game fills the stack with its first screen
            assert not step.mask[0]
            assert (obs[t + 1] == obs[t + 1, :1]).all()
        else:  # a lost life moves it on by one, as an ordinary step does
            np.testing.assert_array_equal(obs[t + 1, :-1], obs[t, 1:])


def test_the_dummy_after_a_lost_life_plays_fire_whatever_the_policy_says() -> None:
    fires = play(ale_config(noop_max=0), FIRE, 60)[1]
    lost = flag(fires, "terminated")[0]

    def after_the_dummy(action: int) -> NDArray[np.uint8]:
        env = ale_config(noop_max=0).make(1, [0])
        env.reset()
        for _ in range(lost + 1):
            step = env.step(np.array([FIRE]))
        assert step.terminated[0]
        return env.step(np.array([action])).obs

    for action in (0, 3):
        np.testing.assert_array_equal(after_the_dummy(action), fires[lost + 1].obs)


def test_fire_reset_serves_the_ball() -> None:
    served = play(ale_config(), 0, 80)[1]
    assert len(flag(served, "terminated")) >= 2, "the ball is served after each life, and lost"
    still = play(ale_config(fire_reset=False), 0, 80)[1]
    assert flag(still, "terminated") == []


def test_the_time_limit_cuts_at_exactly_max_frames() -> None:
    plain = ale_config(episodic_life=False, noop_max=0)
    natural = flag(play(plain, FIRE, 160)[1], "terminated")[0] + 1

    def end_of(limit_steps: int) -> EnvStep:
        config = ale_config(episodic_life=False, noop_max=0, max_frames=4 * limit_steps + 3)
        *before, end = play(config, FIRE, min(limit_steps, natural))[1]
        assert not any((s.terminated | s.truncated).any() or s.games for s in before)
        return end

    for limit, terminated in ((natural - 1, False), (natural, True), (natural + 1, True)):
        end = end_of(limit)
        assert bool(end.terminated[0]) == terminated
        assert bool(end.truncated[0]) != terminated
        assert [game.truncated for game in end.games] == [not terminated]


def test_a_cut_restarts_its_column_alone_and_shows_the_true_last_screen() -> None:
    """A column that loses its game is cut later than the other, which plays on untouched."""
    rng = np.random.default_rng(1)
    actions = rng.integers(0, 4, (320, 2))
    streams = []
    for limit in (4 * 150, 108_000):
        env = ale_config(episodic_life=False, max_frames=limit).make(2, [0, 2])
        env.reset()
        streams.append([env.step(action) for action in actions])
    cut, uncut = streams
    assert set(flag(cut, "truncated", 0)) - set(flag(cut, "truncated", 1))
    for column in range(2):
        first = flag(cut, "truncated", column)[0]
        for t in range(first + 1):
            np.testing.assert_array_equal(cut[t].obs[column], uncut[t].obs[column])
            assert cut[t].reward[column] == uncut[t].reward[column]
        fresh = cut[first + 1].obs[column]
        assert (fresh == fresh[:1]).all(), "a new game"
        assert not (uncut[first + 1].obs[column] == fresh).all()
        for before, step in pairwise(cut):
            if step.mask[column]:
                np.testing.assert_array_equal(step.obs[column, :-1], before.obs[column, 1:])


def test_a_life_lost_on_the_step_of_the_limit_is_terminated_and_the_game_is_cut() -> None:
    first_loss = flag(play(ale_config(), FIRE, 100)[1], "terminated")[0]
    steps = play(ale_config(max_frames=4 * (first_loss + 1)), FIRE, first_loss + 3)[1]
    assert steps[first_loss].terminated[0]
    assert not steps[first_loss].truncated[0]
    assert [game.truncated for game in steps[first_loss].games] == [True]
    new_game = steps[first_loss + 1].obs[0]
    assert (new_game == new_game[:1]).all(), "the next episode starts a new game"


def test_a_game_that_ends_inside_a_dummy_is_closed() -> None:
    """Road Runner, standing in the way, with steps of half a second: the game ends in the dummy
    after a lost life. A new game fills the stack with one screen, which is how to see it from
    outside."""
    _, steps = play(ale_config(game="RoadRunner", frame_skip=30), 3, 60)
    hidden = [t for t, step in enumerate(steps) if step.games and not step.mask[0]]
    assert hidden
    for t in hidden:
        assert (steps[t].obs[0] == steps[t].obs[0, :1]).all()
        assert not steps[t].terminated[0]
        assert not steps[t].games[0].truncated
        assert not steps[t - 1].games, "it was a lost life, as far as anyone could see"
        assert steps[t + 1].mask[0]


def test_frame_stack_and_frame_skip() -> None:
    for stack in (1, 4):
        config = ale_config(game="Pong", frame_stack=stack)
        first, _ = play(config, 0, 0)
        assert first.shape == (1, *config.spec().observation_shape) == (1, stack, 84, 84)
    limited = ale_config(game="Pong", frame_skip=3, max_frames=32)
    assert flag(play(limited, 0, 12)[1], "truncated") == [9]


def test_noop_max_randomises_the_start_and_zero_does_not() -> None:
    def starts(noop_max: int) -> int:
        config = ale_config(game="SpaceInvaders", noop_max=noop_max)
        return len({obs.tobytes() for obs in play(config, 0, 8, (0, 1))[1][-1].obs})

    assert starts(0) == 1
    assert starts(30) > 1


def test_sticky_actions_repeat_the_previous_action() -> None:
    def screens(sticky: float, action: int) -> NDArray[np.uint8]:
        config = ale_config(game="Pong", sticky_actions=sticky, fire_reset=False, noop_max=0)
        return play(config, action, 40)[1][-1].obs

    assert (screens(0.0, 2) != screens(0.0, 3)).any()
    np.testing.assert_array_equal(screens(1.0, 2), screens(1.0, 3))


def test_sticky_actions_are_drawn_at_each_frame() -> None:
    """One step up in Freeway: drawn once a step, the chicken would take all four frames or none."""
    config = ale_config(game="Freeway", sticky_actions=0.5, noop_max=0)
    _, (step,) = play(config, 1, 1, tuple(range(6)))
    assert len({obs[-1].tobytes() for obs in step.obs}) >= 3


def test_flicker_blackens_some_screens_and_no_others() -> None:
    flickering = play(ale_config(flicker=0.5, noop_max=0), FIRE, 60)[1]
    plain = play(ale_config(frame_stack=1, noop_max=0), FIRE, 60)[1]
    black = [not step.obs.any() for step in flickering]
    assert 15 < sum(black) < 45
    for step, same, dark in zip(flickering, plain, black, strict=True):
        assert dark or (step.obs == same.obs).all()


def test_the_full_action_space_takes_all_18_actions() -> None:
    env = ale_config(full_action_space=True, fire_reset=False).make(1, [0])
    env.reset()
    env.step(np.array([17]))
    with pytest.raises(ActionError, match="action 18 is out of range, expected 0 to 17"):
        env.step(np.array([18]))


def test_render_is_the_native_screen_in_colour() -> None:
    for game, height in (("Breakout", 210), ("KingKong", 250)):
        env = ale_config(game=game).make(1, [0], render=True)
        with pytest.raises(RuntimeError, match="before reset"):
            env.render(0)
        env.reset()
        screen = env.render(0)
        assert screen.shape == (height, 160, 3)
        assert (screen[..., 0] != screen[..., 2]).any()
        screen[:] = 0
        assert env.render(0).any(), "the screen is the caller's own"


def test_any_number_of_threads_gives_the_same_stream() -> None:
    one, two = (play(ale_config(), 2, 60, (4, 5), num_threads=n)[1] for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.obs, b.obs)


def test_a_step_lets_other_threads_run() -> None:
    env = ale_config(frame_skip=2000, episodic_life=False).make(1, [0])
    env.reset()
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.001):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    inside = False
    for _ in range(50):  # a busy machine may let the other thread wait through a whole step
        start = time.perf_counter()
        env.step(np.array([0]))
        end = time.perf_counter()
        quarter = (end - start) / 4
        inside = inside or any(start + quarter < t < end - quarter for t in ticks)
        if inside:
            break
    stop.set()
    thread.join()
    assert inside


def test_describe_holds_what_a_result_depends_on() -> None:
    config = ale_config(game="ms_pacman", noop_max=0, max_frames=4000)
    described = config.make(2, [8, 9], num_threads=1).describe()
    expected = {
        "backend": "ale",
        "task_id": "ms_pacman",
        "seeds": [8, 9],
        "num_threads": 1,
        "noop_max": 0,
        "reward_clipping": False,
        "screens": 4,
        "ale_py": version("ale-py"),
        "changed_rules": {"noop_max": 0, "max_frames": 4000},
    }
    assert expected.items() <= described.items()
    rom = roms.get_rom_path("ms_pacman").read_bytes()
    assert described["rom_md5"] == hashlib.md5(rom).hexdigest()


def test_wrong_order_of_calls_is_refused() -> None:
    env = ale_config().make(1, [0], render=True)
    assert isinstance(env, AleEnv)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.zeros(1, np.int64))
    env.reset()
    with pytest.raises(RuntimeError, match="called before"):
        env.reset()
    env.close()
    for call in (lambda: env.step(np.zeros(1, np.int64)), lambda: env.render(0)):
        with pytest.raises(RuntimeError, match="closed"):
            call()


def test_close_stops_the_threads() -> None:
    """Threads of the library are none of Python's: the system counts them."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    said = run_script("""
        import os
        from fwp_rl.envs.atari import AtariConfig
        env = AtariConfig(backend="ale").make(2, [0, 1], num_threads=2)
        env.reset()
        before = len(os.listdir("/proc/self/task"))
        env.close()
        print(before - len(os.listdir("/proc/self/task")))
    """)
    assert int(said.split()[-1]) == min(2, usable_cores())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_forked_child_is_refused_before_it_hangs() -> None:
    said = run_script("""
        import os, warnings
        import numpy as np
        from fwp_rl.envs.atari import AtariConfig
        warnings.simplefilter("ignore")  # Python warns of fork beside threads: our very point
        env = AtariConfig(backend="ale").make(1, [0])
        env.reset()
        child = os.fork()
        if child == 0:
            try:
                env.step(np.zeros(1, np.int64))
            except RuntimeError as error:
                print(error, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        env.step(np.zeros(1, np.int64))
    """)
    assert "forked child" in said
    assert "'spawn'" in said
