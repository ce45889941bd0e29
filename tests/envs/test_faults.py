"""Bad input to every family: a Python exception each time, never a crash, a hang or silence.

This file is also a script, ``python test_faults.py``, which tries it all in one process and prints
what became of each: whatever ends that process, or stops it, fails tests and not the test run.
"""

import ctypes.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fwp_rl.envs import ENVS, EnvConfig
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.envs.gym import GymnasiumConfig

NONE = "no exception"

TARGETS: dict[str, EnvConfig] = {
    **{name: cls() for name, cls in ENVS.items()},
    "atari, ale": AtariConfig(backend="ale"),
}
HAS_QT = sys.platform != "linux" or ctypes.util.find_library("Qt5Gui") is not None
CAN_MAKE = [name for name in TARGETS if name != "procgen" or HAS_QT]
TIMEOUT = 280
"""Seconds; it takes about ten on an idle machine."""

Case = tuple[str, Callable[[], Any], str]
"""What is tried, how, and what has to come of it: the name of an exception, or the above."""


def bad_actions(num_actions: int) -> dict[str, Any]:
    """Actions that are none, for two columns."""
    return {
        "the first too large": np.array([0, num_actions]),
        "99": np.array([99, 0]),
        "beyond int32": np.array([0, 2**32]),
        "beyond int64": np.array([0, 2**64 - 1], np.uint64),
        "an endless int": [0, 2**70],
        "-1": np.array([-1, 0]),
        "-1 in int8": np.array([0, -1], np.int8),
        "the least int64": np.array([0, -(2**63)]),
        "none at all": np.zeros(0, np.int64),
        "one too few": np.zeros(1, np.int64),
        "one too many": np.zeros(3, np.int64),
        "a plain int": 0,
        "no dimension": np.array(0),
        "a column": np.zeros((2, 1), np.int64),
        "a row": np.zeros((1, 2), np.int64),
        "one-hot": np.eye(2, dtype=np.int64),
        "NaN": np.array([0, np.nan]),
        "infinity": np.array([0, np.inf]),
        "a fraction": np.array([0, 0.5]),
        "whole floats": np.zeros(2, np.float32),
        "complex numbers": np.zeros(2, np.complex64),
        "truth values": np.zeros(2, np.bool_),
        "strings": ["0", "0"],
        "bytes": np.array([b"0", b"0"]),
        "dates": np.zeros(2, "M8[s]"),
        "durations": np.zeros(2, "m8[s]"),
        "a ragged list": [[0], [0, 0]],
        "records": np.zeros(2, [("action", np.int64)]),
        "None": None,
        "a list of None": [None, None],
        "objects": np.array([0, 0], object),
        "a dict": {0: 0, 1: 0},
        "a generator": (0 for _ in range(2)),
    }


BAD_COUNTS: dict[str, tuple[Any, Any, Any, str]] = {
    "num_envs 0": (0, [], None, "ConfigError"),
    "num_envs -1": (-1, [], None, "ConfigError"),
    "num_envs as a string": ("2", [0, 1], None, "ConfigError"),
    "num_envs 2.0": (2.0, [0, 1], None, "ConfigError"),
    "num_envs NaN": (float("nan"), [0, 1], None, "ConfigError"),
    "num_envs True": (True, [0], None, "ConfigError"),
    "num_envs None": (None, [0], None, "ConfigError"),
    "num_envs a list": ([2], [0, 1], None, "ConfigError"),
    "num_envs beyond int32": (2**31, [0], None, "ConfigError"),
    "a seed too few": (2, [0], None, "ConfigError"),
    "a seed too many": (2, [0, 1, 2], None, "ConfigError"),
    "no seeds": (2, None, None, "ConfigError"),
    "one seed, no list": (2, 5, None, "ConfigError"),
    "seeds from a generator": (2, (seed for seed in (0, 1)), None, "ConfigError"),
    "a set of seeds": (2, {0, 1}, None, "ConfigError"),
    "a dict of seeds": (2, {0: 1, 1: 2}, None, "ConfigError"),
    "seed -1": (2, [0, -1], None, "ConfigError"),
    "seed beyond int32": (2, [0, 2**31], None, "ConfigError"),
    "an endless seed": (2, [0, 2**70], None, "ConfigError"),
    "seed 0.5": (2, [0, 0.5], None, "ConfigError"),
    "seed NaN": (2, [0, float("nan")], None, "ConfigError"),
    "seed True": (2, [0, True], None, "ConfigError"),
    "seed None": (2, [0, None], None, "ConfigError"),
    "seeds as a string": (2, "01", None, "ConfigError"),
    "float seeds": (2, np.zeros(2), None, "ConfigError"),
    "nested seeds": (2, [[0], [1]], None, "ConfigError"),
    "num_threads 0": (2, [0, 1], 0, "ConfigError"),
    "num_threads -1": (2, [0, 1], -1, "ConfigError"),
    "num_threads 1.5": (2, [0, 1], 1.5, "ConfigError"),
    "num_threads as a string": (2, [0, 1], "2", "ConfigError"),
    "num_threads True": (2, [0, 1], True, "ConfigError"),
}

BAD_FIELDS: dict[str, dict[str, list[Any]]] = {
    "atari": {
        "game": [
            ["Pong"],
            "Braekout",
            "",
            " ",
            "-v5",
            "Pong\0",
            "../roms/pong",
            "B" * 100_000,
            None,
            5,
        ],
        "protocol": ["modern", "", None, 1],
        "backend": ["ale_py", "", None],
        "frame_stack": [0, -1, 5, 2.0, "4", True],
        "flicker": [-0.1, 1.1, float("nan"), float("inf"), "0.5", None, True],
        "frame_skip": [0, -4, 4.0, "4", True, 10**9],
        "full_action_space": [True, 1, "yes"],
        "sticky_actions": [-0.1, 1.1, float("nan"), "0.25", True],
        "episodic_life": [1, 0.0, "no"],
        "noop_max": [-1, 30.0, "30", float("nan"), True, 10**9],
        "fire_reset": [1, "no"],
        "max_frames": [0, -1, 3, 1e5, "108000", float("inf"), True, 2**31],
    },
    "minigrid": {
        "task": ["MemoryS8", "", "MiniGrid-", "Empty-8x8-v0", "MemoryS9-v7", "M" * 100_000, None, 9]
    },
    "classic": {"task": ["CartPole", "", "Pendulum-v1", "Pong-v5", None, 1]},
    "procgen": {"task": ["Maze", "", "MazeExtreme", "CoinrunMemory", "M" * 100_000, None, 1]},
    "gymnasium": {
        "id": ["CartPol-v1", "CartPole-v9", "", "a/b/c-v0", "os:Env-v0", "C" * 100_000, None, 1],
        "max_episode_steps": [0, -1, 2.0, "9", True],
        "kwargs": [
            *(1, [], "a", None, {1: 1}, {"render_mode": "human"}),
            *({"a": value} for value in (None, [1], float("nan"))),
        ],
        "processes": [1, "yes", None],
    },
    "recall": {
        "num_cues": [1, 0, -1, 257, 4.0, "4", True, None],
        "num_keys": [0, -1, 4, 257, 2.0, True, None],  # 4 do not fit into the least delay
        "overwrites": [-1, 1001, 1.0, True, None],
        "delay": [-1, 2.5, float("nan"), True],
        "min_delay": [-1, 9, 2.0, None],
        "max_delay": [-1, 1, 8.0, float("nan")],
        "distractors": [1, "yes", None],
        "time_limit": [0, -1, 2.5, True],
    },
}
"""Family → field → values that it refuses, with every other field at its default."""

EDGES: list[dict[str, Any]] = [
    {"noop_max": 0, "max_frames": 4},
    {"noop_max": 1, "sticky_actions": 1.0, "flicker": 1.0},
    {"frame_skip": 1, "max_frames": 1, "frame_stack": 1},
]
"""Atari's extreme values, which have to work: the bare envpool crashes at the first."""


def action_cases(config: EnvConfig) -> Iterator[Case]:
    env = config.make(2, [3, 4])
    env.reset()
    for what, action in bad_actions(env.spec.num_actions).items():
        yield what, partial(env.step, action), "ActionError"
    for dtype in (np.int8, np.uint8, np.uint64, ">i4"):
        actions = np.array([0, env.spec.num_actions - 1]).astype(dtype)
        yield f"good ones of type {actions.dtype.str}", partial(env.step, actions), NONE
    yield "good ones in a list", partial(env.step, [0, 1]), NONE  # type: ignore[arg-type]


def count_cases(config: EnvConfig) -> Iterator[Case]:
    for what, (num_envs, seeds, num_threads, expected) in BAD_COUNTS.items():
        yield what, partial(config.make, num_envs, seeds, num_threads=num_threads), expected


def order_cases(config: EnvConfig) -> Iterator[Case]:
    actions = np.zeros(2, np.int64)
    env = config.make(2, [3, 4])
    yield "step before reset", partial(env.step, actions), "RuntimeError"
    yield "reset", env.reset, NONE
    yield "reset once more", env.reset, "RuntimeError"
    yield "step after it", partial(env.step, actions), NONE
    yield "render without render=True", partial(env.render, 0), "RuntimeError"
    yield "close", env.close, NONE
    yield "close once more", env.close, NONE
    yield "step after close", partial(env.step, actions), "RuntimeError"
    yield "reset after close", env.reset, "RuntimeError"
    yield "render after close", partial(env.render, 0), "RuntimeError"
    yield "describe after close", env.describe, "RuntimeError"
    drawn = config.make(2, [3, 4], render=True)
    yield "render before reset", partial(drawn.render, 0), "RuntimeError"
    drawn.reset()
    columns: list[Any] = [2, -1, 2**40, 0.0, float("nan"), "0", None, True, [0], np.array([0])]
    for column in columns:
        yield f"render column {column!r}", partial(drawn.render, column), "IndexError"


def field_cases(family: str) -> Iterator[Case]:
    for field, values in BAD_FIELDS[family].items():
        for value in values:
            what = f"{field} {value!r:.40}"
            yield what, partial(ENVS[family], **{field: value}), "ConfigError"
    yield "an unknown field", partial(ENVS[family], **{"gane": "Pong"}), "TypeError"


def edge_cases(backend: Any) -> Iterator[Case]:
    def play(arguments: dict[str, Any]) -> None:
        env = AtariConfig(game="Pong", backend=backend, **arguments).make(1, [3])
        env.reset()
        for _ in range(4):
            env.step(np.zeros(1, np.int64))

    for arguments in EDGES:
        yield str(arguments), partial(play, arguments), NONE


def groups() -> dict[str, Callable[[], Iterator[Case]]]:
    """Name of a test → its cases."""
    found: dict[str, Callable[[], Iterator[Case]]] = {}
    for name in CAN_MAKE:
        config = TARGETS[name]
        found[f"{name}: actions"] = partial(action_cases, config)
        found[f"{name}: counts"] = partial(count_cases, config)
        found[f"{name}: order of calls"] = partial(order_cases, config)
    for name in ENVS:
        found[f"{name}: fields"] = partial(field_cases, name)
    for backend in ("envpool", "ale"):
        found[f"atari, {backend}: extremes"] = partial(edge_cases, backend)
    return found


def main() -> None:
    """Prints a JSON line for each case: group, what, expected, the exception's name, its text."""
    for group, cases in groups().items():
        for what, attempt, expected in cases():
            print(json.dumps([group, what, expected])[:-1], end="", flush=True)
            name, text = NONE, ""
            try:
                attempt()
            except Exception as error:
                name, text = type(error).__name__, str(error)
            print(f", {json.dumps(name)}, {json.dumps(text)}]", flush=True)


@pytest.fixture(scope="module")
def answers() -> dict[str, list[list[str]]]:
    """The lines of ``main``, by group."""
    try:
        process = subprocess.run(
            [sys.executable, __file__], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as hang:
        said = (hang.stdout or b"").decode()
        pytest.fail(f"hangs at {said.splitlines()[-1:]}")
    lines = process.stdout.splitlines()
    status = f"ended with {process.returncode} at {lines[-1:]}: {process.stderr[-2000:]}"
    assert process.returncode == 0, status
    found: dict[str, list[list[str]]] = {}
    for line in lines:
        answer = json.loads(line)
        found.setdefault(answer[0], []).append(answer[1:])
    return found


@pytest.mark.parametrize("group", groups())
def test_bad_input_is_answered_with_an_exception(
    group: str, answers: dict[str, list[list[str]]]
) -> None:
    for what, expected, name, text in answers[group]:
        said = f"{what}: {name} {text}"
        assert name == expected, said
        if name in ("ActionError", "ConfigError"):
            assert text, said
            assert len(text) < 5_000 or len(what) > 40, f"{what}: a sentence, not a page"


def test_every_family_has_fields_to_refuse() -> None:
    assert set(BAD_FIELDS) == set(ENVS)


def run_scenario(name: str) -> "subprocess.CompletedProcess[str]":
    """One of the functions below, in a process of its own."""
    return subprocess.run(
        [sys.executable, __file__, name],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def interrupt_and_kill_a_column() -> None:
    """Step on after Ctrl-C reached the processes of the columns, and after one was killed."""
    kwargs = {"sutton_barto_reward": True}
    config = GymnasiumConfig(id="CartPole-v1", kwargs=kwargs, processes=True)
    env = config.make(2, [3, 4])
    env.reset()
    _, second = columns = sorted(multiprocessing.active_children(), key=lambda c: c.pid or 0)
    for stop in (signal.SIGINT, signal.SIGUSR1):
        for column in columns:
            os.kill(column.pid or 0, stop)
    for _ in range(3):
        env.step(np.zeros(2, np.int64))
    second.kill()  # the first still answers
    try:
        env.step(np.zeros(2, np.int64))
    except RuntimeError as error:
        print(error)
    env.close()
    assert not multiprocessing.active_children()
    print("closed")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_columns_in_processes_outlive_ctrl_c_and_their_death_is_no_hang() -> None:
    process = run_scenario("interrupt_and_kill_a_column")
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        "the process of environment 1 of CartPole-v1, made with {'sutton_barto_reward': True}, "
        "has died (Killed)",
        "closed",
    ]


def ask_for_too_many_threads() -> None:
    """More than the process has room for."""
    import resource  # Unix has it

    for backend in ("envpool", "ale"):
        config = AtariConfig(game="Pong", backend=backend)
        config.make(1, [3]).close()  # loads the libraries, before the room is taken
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, resource.RLIM_INFINITY))
        env = config.make(2, [3, 4], num_threads=10_000)
        env.reset()
        env.step(np.zeros(2, np.int64))
        env.close()
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads its size from /proc")
def test_too_many_threads_do_not_end_the_process() -> None:
    process = run_scenario("ask_for_too_many_threads")
    assert process.returncode == 0, process.stderr


if __name__ == "__main__":
    scenarios = (interrupt_and_kill_a_column, ask_for_too_many_threads)
    {scenario.__name__: scenario for scenario in scenarios}.get(sys.argv[-1], main)()
