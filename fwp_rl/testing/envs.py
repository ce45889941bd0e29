"""The contract of environment adapters (``fwp_rl/envs/base.py``), check by check: dummy steps,
resets, flags and the books on games."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fwp_rl.config import ConfigError
from fwp_rl.envs import ActionError, EnvConfig, EnvStep
from fwp_rl.testing.expect import expect, named_check

__all__ = ["ENV_CHECKS", "SEEDS", "Stream", "check_env", "random_actions", "record_stream"]

SEEDS = (3, 14, 15)
"""Of the columns of a recorded stream."""


@dataclass
class Stream:
    """What an environment said, along time: obs and reset have T + 1 entries, the rest T."""

    obs: NDArray[Any]
    reset: NDArray[np.bool_]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    mask: NDArray[np.bool_]
    steps: list[EnvStep]

    @property
    def ended(self) -> NDArray[np.bool_]:
        """[T, B] an episode ended."""
        return self.terminated | self.truncated


def check_env(config: EnvConfig, *, num_steps: int = 120, random: bool = True) -> None:
    """All checks. AssertionError, which begins with the name of the check, where one does not hold.

    num_steps  of random play, in which every one of three columns has to see an episode's end
    random     whether another seed is another stream
    """
    with named_check("play"):
        stream = record_stream(config, num_steps=num_steps)
    for name, check in ENV_CHECKS.items():
        if random or name != "other_seeds_are_other_streams":
            with named_check(name):
                check(config, stream)


def random_actions(num_actions: int, num_steps: int) -> NDArray[np.int64]:
    """[T] the same for every column."""
    return np.random.default_rng(0).integers(0, num_actions, num_steps)


def record_stream(
    config: EnvConfig, *, seeds: Sequence[int] = SEEDS, num_steps: int = 120
) -> Stream:
    """Play the same random actions for every column, whatever the seeds are."""
    env = config.make(len(seeds), seeds)
    first = env.reset()
    actions = random_actions(env.spec.num_actions, num_steps)
    steps = [env.step(np.full(len(seeds), action)) for action in actions]
    env.close()
    return Stream(
        obs=np.stack([first] + [step.obs for step in steps]),
        reset=np.stack([np.ones(len(seeds), np.bool_)] + [step.reset for step in steps]),
        reward=np.stack([step.reward for step in steps]),
        terminated=np.stack([step.terminated for step in steps]),
        truncated=np.stack([step.truncated for step in steps]),
        mask=np.stack([step.mask for step in steps]),
        steps=steps,
    )


def shapes_and_types_are_those_of_the_spec(config: EnvConfig, stream: Stream) -> None:
    spec = config.spec()
    columns = len(SEEDS)
    wanted = (len(stream.mask) + 1, columns, *spec.observation_shape)
    expect(stream.obs.shape == wanted, f"observations {stream.obs.shape}, expected {wanted}")
    dtype = spec.observation_dtype
    expect(stream.obs.dtype == dtype, f"observations are {stream.obs.dtype}, expected {dtype}")
    expect(stream.reward.dtype == np.float32, f"rewards are {stream.reward.dtype}, not float32")
    for name in ("reset", "terminated", "truncated", "mask"):
        flag = getattr(stream, name)
        expect(flag.dtype == np.bool_, f"{name} is {flag.dtype}, expected bool")
        expect(flag.shape[1:] == (columns,), f"{name} has shape {flag.shape[1:]}, expected [B]")


def one_dummy_after_each_end_and_the_reset_right_after_it(
    config: EnvConfig, stream: Stream
) -> None:
    expect(stream.ended.any(axis=0).all(), "a column saw no end of an episode: play more steps")
    expect(not (stream.terminated & stream.truncated).any(), "terminated and truncated at once")
    num_steps, num_envs = stream.mask.shape
    for column in range(num_envs):
        t, fresh = 0, True
        while t < num_steps:
            where = f"step {t} of column {column}"
            expect(stream.mask[t, column], f"{where}: mask is 0 without an end before it")
            expect(stream.reset[t, column] == fresh, f"{where}: reset is not {fresh}")
            fresh = False
            if stream.ended[t, column] and t + 1 < num_steps:
                t += 1
                where = f"step {t} of column {column}, the dummy after an end"
                expect(not stream.mask[t, column], f"{where}: mask is 1")
                expect(stream.reward[t, column] == 0, f"{where}: it has a reward")
                expect(not stream.ended[t, column], f"{where}: an end of its own")
                expect(not stream.reset[t, column], f"{where}: reset; it is of the old episode")
                fresh = True
            t += 1


def games_agree_with_the_stream(config: EnvConfig, stream: Stream) -> None:
    """Return and length of each game are sums over its steps."""
    num_envs = stream.mask.shape[1]
    total, length = [0.0] * num_envs, [0] * num_envs
    num_games = 0
    for t, step in enumerate(stream.steps):
        for column in range(num_envs):
            total[column] += float(stream.reward[t, column])
            length[column] += int(stream.mask[t, column])
        for game in step.games:
            column = game.column
            near = np.isclose(game.episode_return, total[column], rtol=1e-6, atol=1e-6)
            expect(bool(near), f"{game} at step {t}: the rewards add up to {total[column]}")
            expect(game.length == length[column], f"{game} at step {t}: {length[column]} steps")
            ended = stream.ended[t, column] or not stream.mask[t, column]
            expect(ended, f"{game} at step {t}, which ends nothing")
            total[column], length[column] = 0.0, 0
            num_games += 1
        for column in np.flatnonzero(stream.truncated[t]).tolist():
            cut = [game.truncated for game in step.games if game.column == column]
            expect(cut == [True], f"column {column} is truncated at step {t}, its games: {cut}")
    expect(num_games > 0, "no game ended: play more steps")


def the_same_seeds_give_the_same_stream(config: EnvConfig, stream: Stream) -> None:
    again = record_stream(config, num_steps=min(60, len(stream.steps)))
    for name in ("obs", "reset", "reward", "terminated", "truncated", "mask"):
        expected = getattr(stream, name)[: len(getattr(again, name))]
        np.testing.assert_array_equal(getattr(again, name), expected, err_msg=name)
    games = [step.games for step in stream.steps[: len(again.steps)]]
    expect([step.games for step in again.steps] == games, "other games, from the same seeds")


def other_seeds_are_other_streams(config: EnvConfig, stream: Stream) -> None:
    """And a column's depends on its own seed alone."""
    other = record_stream(config, seeds=[SEEDS[1], 9], num_steps=40)
    np.testing.assert_array_equal(other.obs[:, 0], stream.obs[:41, 1])
    differs = (other.obs[:, 1] != stream.obs[:41, 1]).any()
    expect(bool(differs), f"seeds 9 and {SEEDS[1]} give the same observations")


def arrays_are_the_callers(config: EnvConfig, stream: Stream) -> None:
    """No later step writes to an array that was handed out: whoever kept it, as actors do over a
    step, would find the next step's numbers in it."""
    env = config.make(len(SEEDS), SEEDS)
    kept = [env.reset()]
    copies = [kept[0].copy()]
    for action in random_actions(env.spec.num_actions, 20):
        step = env.step(np.full(len(SEEDS), action))
        arrays = [getattr(step, field.name) for field in fields(step) if field.name != "games"]
        kept += arrays
        copies += [array.copy() for array in arrays]
    env.close()
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def describe_is_json_and_names_the_task(config: EnvConfig, stream: Stream) -> None:
    env = config.make(1, [0])
    described = json.loads(json.dumps(env.describe()))
    env.close()
    expect(bool(described.get("task_id")), f"no task_id in {described}")


def render_gives_a_screen_where_it_was_asked_for(config: EnvConfig, stream: Stream) -> None:
    try:
        env = config.make(2, [0, 1], render=True)
    except ConfigError:
        expect(config.frame_rate() is None, "a frame rate, and make(render=True) is refused")
        return
    env.reset()
    screen = env.render(1)
    is_screen = screen.dtype == np.uint8 and screen.ndim == 3 and screen.shape[2] == 3
    expect(is_screen, f"a screen is {screen.dtype} {screen.shape}, expected uint8 [h, w, 3]")
    _expect_refusal(lambda: env.render(2), IndexError, "column: got 2, expected 0 to 1")
    env.close()
    blind = config.make(1, [0])
    blind.reset()
    _expect_refusal(lambda: blind.render(0), RuntimeError, "render=True")
    blind.close()


def bad_arguments_are_refused(config: EnvConfig, stream: Stream) -> None:
    cases: list[tuple[Any, Any, Any, str]] = [
        (0, [], None, "num_envs: got 0"),
        (-1, [], None, "num_envs: got -1"),
        (2.0, [0, 1], None, "num_envs: got 2.0"),
        ("2", [0, 1], None, "num_envs: got '2'"),
        (2, [0], None, "seeds: got 1, expected 2"),
        (1, [-1], None, "seeds: got -1"),
        (1, [2**31], None, "seeds: got 2147483648"),
        (1, [0.5], None, "seeds: got 0.5"),
        (1, [0], 0, "num_threads: got 0"),
    ]
    for num_envs, seeds, threads, said in cases:
        make = partial(config.make, num_envs, seeds, num_threads=threads)
        _expect_refusal(make, ConfigError, said)


def bad_actions_are_refused_and_change_nothing(config: EnvConfig, stream: Stream) -> None:
    env = config.make(len(SEEDS), SEEDS)
    env.reset()
    for bad in (
        np.zeros(2, np.int64),
        np.zeros((3, 1), np.int64),
        np.zeros(3, np.float32),
        np.array([0, np.nan, 0]),
        np.array([0, 0, -1]),
        np.array([0, env.spec.num_actions, 0]),
    ):
        _expect_refusal(partial(env.step, bad), ActionError, "")
    action = np.full(len(SEEDS), random_actions(env.spec.num_actions, 1))
    np.testing.assert_array_equal(env.step(action).obs, stream.obs[1])
    env.close()


def _expect_refusal(call: Callable[[], Any], kind: type[Exception], said: str) -> None:
    try:
        call()
    except kind as error:
        expect(said in str(error), f"{kind.__name__} says {str(error)!r}, expected {said!r} in it")
        return
    raise AssertionError(f"nothing was raised, expected {kind.__name__}{': ' * bool(said)}{said}")


ENV_CHECKS: Final[dict[str, Callable[[EnvConfig, Stream], None]]] = {
    check.__name__: check
    for check in (
        shapes_and_types_are_those_of_the_spec,
        arrays_are_the_callers,
        one_dummy_after_each_end_and_the_reset_right_after_it,
        games_agree_with_the_stream,
        the_same_seeds_give_the_same_stream,
        other_seeds_are_other_streams,
        describe_is_json_and_names_the_task,
        render_gives_a_screen_where_it_was_asked_for,
        bad_arguments_are_refused,
        bad_actions_are_refused_and_change_nothing,
    )
}
