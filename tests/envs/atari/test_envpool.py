"""Atari on the real envpool; the flag logic also on made-up answers of a pool."""

import subprocess
import sys
import textwrap
from typing import Any

import envpool
import numpy as np
import pytest
from envpool.atari.registration import atari_game_list
from numpy.typing import NDArray

from fwp_rl.config import ConfigError
from fwp_rl.envs import ActionError, EnvStep
from fwp_rl.envs.atari import GAMES, AtariConfig, canonical_game
from fwp_rl.envs.atari.envpool import LifeFlags

FIRE = 1
SOME_GAMES = ("Breakout", "Freeway", "MsPacman", "Skiing", "LostLuggage")


def play(
    config: AtariConfig, action: int, num_steps: int, seeds: tuple[int, ...] = (0,)
) -> tuple[NDArray[np.uint8], list[EnvStep]]:
    """All steps of one repeated action, and the first observation in front."""
    env = config.make(len(seeds), seeds)
    first = env.reset()
    return first, [env.step(np.full(len(seeds), action)) for _ in range(num_steps)]


def flag(steps: list[EnvStep], name: str, column: int = 0) -> NDArray[np.int64]:
    """The step numbers at which a flag of a column is up."""
    return np.flatnonzero([getattr(step, name)[column] for step in steps])


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


class TestNames:
    @pytest.mark.parametrize(
        ("given", "name"),
        [
            ("Pong", "Pong"),
            ("pong", "Pong"),
            (" PONG ", "Pong"),
            ("ALE/Pong-v5", "Pong"),
            ("PongNoFrameskip-v4", "Pong"),
            ("PongDeterministic-v0", "Pong"),
            ("Pong-v5", "Pong"),
            ("ms_pacman", "MsPacman"),
            ("mspacman", "MsPacman"),
            ("Ms Pacman", "MsPacman"),
            ("Ms. Pac-Man", "MsPacman"),
            ("atari/Pong", "Pong"),
            ("Q*bert", "Qbert"),
            ("montezuma_revenge", "MontezumaRevenge"),
            ("up_n_down", "UpNDown"),
            ("pitfall2", "Pitfall2"),
        ],
    )
    def test_all_spellings_name_one_game(self, given: str, name: str) -> None:
        assert canonical_game(given) == name
        assert AtariConfig(game=given) == AtariConfig(game=name)
        assert AtariConfig(game=given).spec().name == f"atari/{name}"

    def test_a_typo_is_answered_with_a_suggestion(self) -> None:
        with pytest.raises(ConfigError, match=r"'Braekout', expected .* Did you mean 'Breakout'\?"):
            AtariConfig(game="Braekout")
        with pytest.raises(ConfigError, match="got '', expected one of envpool's 104 Atari games"):
            AtariConfig(game="")

    def test_the_games_are_those_of_envpool(self) -> None:
        assert sorted({canonical_game(rom) for rom in atari_game_list}) == list(GAMES)
        assert {f"{game}-v5" for game in GAMES} <= set(envpool.list_all_envs())
        assert len(GAMES) == 104

    def test_configs_and_specs_need_no_envpool(self) -> None:
        run_script("""
            import sys
            from fwp_rl.envs.atari import GAMES, AtariConfig
            for game in GAMES:
                AtariConfig(game=game).spec()
            assert "envpool" not in sys.modules
        """)


def check_number_of_actions(game: str) -> None:
    minimal, full = (
        AtariConfig(game=game),
        AtariConfig(game=game, full_action_space=True, fire_reset=False),
    )
    for config in (minimal, full):
        truth = envpool.make_spec(f"{game}-v5", full_action_space=config.full_action_space)
        assert config.spec().num_actions == truth.action_space.n, game


@pytest.mark.parametrize("game", SOME_GAMES)
def test_number_of_actions(game: str) -> None:
    check_number_of_actions(game)


@pytest.mark.slow
def test_number_of_actions_of_every_game() -> None:
    for game in GAMES:
        check_number_of_actions(game)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frame_stack": 0}, "frame_stack: got 0, expected 1 to 4"),
        ({"frame_stack": 5}, "frame_stack: got 5"),
        ({"frame_skip": 0}, "frame_skip: got 0, expected 1 to 10000"),
        ({"sticky_actions": 1.5}, "sticky_actions: got 1.5"),
        ({"sticky_actions": float("nan")}, "sticky_actions: got nan"),
        ({"noop_max": -1}, "noop_max: got -1"),
        ({"max_frames": 3}, "max_frames: got 3, expected at least frame_skip = 4"),
        ({"full_action_space": True}, "set fire_reset to false"),
    ],
)
def test_bad_fields_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AtariConfig(**arguments)


def test_the_stream_is_that_of_the_bare_pool() -> None:
    """Same seeds, same actions: nothing is lost, and the books agree with ``info["reward"]``."""
    seeds = [5, 6]
    env = AtariConfig(game="Breakout").make(2, seeds)
    pool = envpool.make(
        "Breakout-v5", env_type="gymnasium", num_envs=2, seed=seeds, episodic_life=True
    )
    np.testing.assert_array_equal(env.reset(), pool.reset()[0])
    rng = np.random.default_rng(1)
    games, expected, total = [], [], np.zeros(2)
    for _ in range(250):
        action = rng.integers(0, 4, 2)
        step = env.step(action)
        obs, _, terminated, truncated, info = pool.step(action.astype(np.int32))
        np.testing.assert_array_equal(info["env_id"], [0, 1])
        np.testing.assert_array_equal(step.obs, obs)
        np.testing.assert_array_equal(step.reward, info["reward"])
        np.testing.assert_array_equal(step.terminated | step.truncated, terminated | truncated)
        total += info["reward"]
        games += [(game.column, game.episode_return) for game in step.games]
        for column in np.flatnonzero((info["terminated"] == 1) | truncated):
            expected.append((int(column), float(total[column])))
            total[column] = 0
    assert games == expected
    assert len(games) >= 1


def test_a_lost_life_ends_the_episode_and_not_the_game() -> None:
    _, steps = play(AtariConfig(game="Breakout"), FIRE, 160)
    ends = flag(steps, "terminated")
    games = [(t, game) for t, step in enumerate(steps) for game in step.games]
    assert len(games) >= 1
    assert [t for t, _ in games] == list(ends[4::5]), "a game of Breakout has five lives"
    last, game = games[0]
    assert game.episode_return == sum(float(step.reward[0]) for step in steps[: last + 1])
    assert game.length == last + 1 - 4, "four dummies are not counted"
    whole = play(AtariConfig(game="Breakout", episodic_life=False), FIRE, 160)[1]
    first_end = flag(whole, "terminated")[0]
    assert [game.column for game in whole[first_end].games] == [0]
    assert not any(step.games for step in whole[:first_end])


def test_the_observation_of_a_dummy_is_the_last_of_its_episode() -> None:
    first, steps = play(AtariConfig(game="Breakout"), FIRE, 160)
    obs = np.stack([first] + [step.obs for step in steps])[:, 0]
    game_ends = {t for t, step in enumerate(steps) if step.games}
    for t, step in enumerate(steps):
        if step.mask[0]:  # an ordinary step moves the stack of screens on by one
            np.testing.assert_array_equal(obs[t + 1, :-1], obs[t, 1:])
        elif t - 1 in game_ends:  # a new game fills the stack with its first screen
            assert (obs[t + 1] == obs[t + 1, :1]).all()


def test_the_time_limit_cuts_at_exactly_max_frames() -> None:
    plain = AtariConfig(game="Breakout", episodic_life=False, noop_max=0)
    natural = int(flag(play(plain, FIRE, 160)[1], "terminated")[0]) + 1

    def end_of(limit_steps: int) -> EnvStep:
        config = AtariConfig(
            game="Breakout", episodic_life=False, noop_max=0, max_frames=4 * limit_steps + 3
        )
        *before, end = play(config, FIRE, min(limit_steps, natural))[1]
        assert not any((s.terminated | s.truncated).any() or s.games for s in before)
        return end

    for limit, terminated in ((natural - 1, False), (natural, True), (natural + 1, True)):
        end = end_of(limit)
        assert bool(end.terminated[0]) == terminated
        assert bool(end.truncated[0]) != terminated
        assert [game.truncated for game in end.games] == [not terminated]


def test_a_life_lost_on_the_step_of_the_limit_is_terminated_and_the_game_is_cut() -> None:
    first_loss = int(flag(play(AtariConfig(game="Breakout"), FIRE, 100)[1], "terminated")[0])
    config = AtariConfig(game="Breakout", max_frames=4 * (first_loss + 1))
    steps = play(config, FIRE, first_loss + 3)[1]
    assert steps[first_loss].terminated[0]
    assert not steps[first_loss].truncated[0]
    assert [game.truncated for game in steps[first_loss].games] == [True]
    new_game = steps[first_loss + 1].obs[0]
    assert (new_game == new_game[:1]).all(), "the next episode starts a new game"


def test_a_game_that_ends_inside_the_hidden_no_ops_is_closed() -> None:
    """Road Runner, standing in the way: the last life goes while the no-ops of the last loss
    run. A new game fills the stack with one screen, which is how to see it from outside."""
    _, steps = play(AtariConfig(game="RoadRunner"), 3, 140)
    hidden = [t for t, step in enumerate(steps) if step.games and not step.mask[0]]
    assert hidden
    for t in hidden:
        assert (steps[t].obs[0] == steps[t].obs[0, :1]).all()
        assert not steps[t].games[0].truncated
        assert not steps[t - 1].games, "it was a lost life, as far as anyone could see"


def test_frame_stack_and_frame_skip() -> None:
    for stack in (1, 4):
        config = AtariConfig(game="Pong", frame_stack=stack)
        first, _ = play(config, 0, 0)
        assert first.shape == (1, *config.spec().observation_shape) == (1, stack, 84, 84)
    limited = AtariConfig(game="Pong", frame_skip=3, max_frames=32)
    assert flag(play(limited, 0, 12)[1], "truncated").tolist() == [9]


def test_noop_max_randomises_the_start_and_zero_does_not() -> None:
    def starts(noop_max: int) -> int:
        config = AtariConfig(game="SpaceInvaders", noop_max=noop_max)
        return len({obs.tobytes() for obs in play(config, 0, 8, (0, 1, 2))[1][-1].obs})

    assert starts(0) == 1
    assert starts(30) > 1


def test_fire_reset_serves_the_ball() -> None:
    served = play(AtariConfig(game="Breakout"), 0, 80)[1]
    assert len(flag(served, "terminated")) >= 2, "the ball is served after each life, and lost"
    still = play(AtariConfig(game="Breakout", fire_reset=False), 0, 80)[1]
    assert len(flag(still, "terminated")) == 0


def test_sticky_actions_repeat_the_previous_action() -> None:
    def screens(sticky: float, action: int) -> NDArray[np.uint8]:
        config = AtariConfig(game="Pong", sticky_actions=sticky, fire_reset=False)
        return play(config, action, 40)[1][-1].obs

    assert (screens(0.0, 2) != screens(0.0, 3)).any()
    np.testing.assert_array_equal(screens(1.0, 2), screens(1.0, 3))


def test_the_full_action_space_takes_all_18_actions() -> None:
    env = AtariConfig(game="Breakout", full_action_space=True, fire_reset=False).make(1, [0])
    env.reset()
    env.step(np.array([17]))
    with pytest.raises(ActionError, match="action 18 is out of range, expected 0 to 17"):
        env.step(np.array([18]))


def test_render_is_the_native_screen_in_colour() -> None:
    env = AtariConfig(game="Breakout").make(2, [0, 1], render=True)
    env.reset()
    screen = env.render(1)
    assert screen.shape == (210, 160, 3)
    assert (screen[..., 0] != screen[..., 2]).any()


def test_describe_holds_what_a_result_depends_on() -> None:
    described = AtariConfig(game="Pong", noop_max=0, max_frames=4000).make(2, [8, 9]).describe()
    expected = {"noop_max": 1, "max_episode_steps": 1000, "env_seed": [8, 9], "reward_clip": False}
    assert expected.items() <= described.items()
    assert described["envpool"] == envpool.__version__
    assert described["rom_md5"] == "60e0ea3cbe0913d39803477945e9e5ec", "ale-py's md5.json has it"


def test_wrong_order_of_calls_is_refused() -> None:
    env = AtariConfig().make(1, [0])
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.zeros(1, np.int64))
    env.reset()
    with pytest.raises(RuntimeError, match="called before"):
        env.reset()
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.step(np.zeros(1, np.int64))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_forked_child_is_refused_before_it_hangs() -> None:
    said = run_script("""
        import os, warnings
        import numpy as np
        from fwp_rl.envs.atari import AtariConfig
        warnings.simplefilter("ignore")  # Python warns of fork beside threads: our very point
        env = AtariConfig().make(1, [0])
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


def flags_of(
    rows: list[tuple[int, bool, bool, bool]], *, start: int, episodic_life: bool = True
) -> list[str]:
    """Feed one column with rows of (lives, terminated, truncated, game over), as envpool gives
    them; answers with a word for the episode and one for the game, per step."""
    flags = LifeFlags(np.array([start], np.int32), episodic_life=episodic_life)
    dummy = np.zeros(1, np.bool_)
    answers = []
    for lives, terminated, truncated, game_over in rows:
        step = flags.step(
            dummy=dummy,
            terminated=np.array([terminated]),
            truncated=np.array([truncated]),
            game_over=np.array([game_over]),
            lives=np.array([lives], np.int32),
        )
        dummy = step["terminated"] | step["truncated"]
        assert not (step["terminated"] & step["truncated"]).any()
        answers.append(" ".join(name for name, up in step.items() if up.item()))
    return answers


class TestLifeFlags:
    STEP, LOST, OVER = (False, False, False), (True, False, False), (True, False, True)
    CUT, CUT_OVER = (False, True, False), (False, True, True)

    def test_lives_that_rise_on_a_dummy_close_the_game(self) -> None:
        rows = [(1, *self.LOST), (3, *self.STEP), (3, *self.STEP)]
        assert flags_of(rows, start=2) == ["terminated", "game_end", ""]

    def test_lives_that_rise_on_the_dummy_after_a_game_close_nothing_twice(self) -> None:
        assert flags_of([(0, *self.OVER), (3, *self.STEP)], start=1) == ["terminated game_end", ""]
        assert flags_of([(1, *self.CUT), (3, *self.STEP)], start=1) == [
            "truncated game_end game_cut",
            "",
        ]

    def test_a_life_won_in_play_is_no_end(self) -> None:
        assert flags_of([(3, *self.STEP), (4, *self.STEP)], start=3) == ["", ""]

    def test_game_over_at_the_limit_is_terminated_and_not_cut(self) -> None:
        assert flags_of([(0, *self.CUT_OVER)], start=1) == ["terminated game_end"]
        assert flags_of([(0, *self.CUT_OVER)], start=0) == ["terminated game_end"], "no lives: Pong"

    def test_a_life_lost_at_the_limit_is_terminated_and_the_game_cut(self) -> None:
        assert flags_of([(2, *self.CUT)], start=3) == ["terminated game_end game_cut"]
        assert flags_of([(2, *self.CUT)], start=3, episodic_life=False) == [
            "truncated game_end game_cut"
        ]

    def test_the_last_life_lost_without_game_over_ends_nothing_yet(self) -> None:
        """Wizard of Wor stays at no lives for some frames; envpool gives no dummy there."""
        rows = [(0, *self.STEP), (0, *self.STEP), (0, *self.OVER), (3, *self.STEP)]
        assert flags_of(rows, start=1) == ["", "", "terminated game_end", ""]
