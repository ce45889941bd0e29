"""A training in a process of its own whose environments do what they are told at a step.

python trainee.py RUN AGENT FAULT STEP [FIELD=VALUE ...]

AGENT  of those below; with "cli-" before it, trained by the command line
FAULT  of those here or of ``disks.py``; ``NAME:STEPS`` is over after so many steps
"""

import ctypes
import dataclasses
import functools
import gc
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import disks
import saver
import yaml

from fwp_rl import cli
from fwp_rl.agents.impala import IMPALAConfig
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.experiment import train
from fwp_rl.models.encoders import MLPConfig
from fwp_rl.rl import actors
from fwp_rl.rl.actors import ActorsConfig
from fwp_rl.runs.presets import config_to_dict
from fwp_rl.training import session, watchdog

FIELDS: dict[str, Any] = {
    "env": RecallConfig(),
    "encoder": MLPConfig(hidden_sizes=(8,)),
    "core": FeedforwardConfig(),
    "num_envs": 4,
    "total_steps": 10**9,
    "evaluation_games": 0,
    "video": False,
    "plain": True,
    "hang_seconds": 1.0,
}
PRELOADED = (
    "fwp_rl.commands.train",
    "fwp_rl.reports.plots",
    "fwp_rl.runs.flags",
    "fwp_rl.runs.views",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "torch._dynamo",
)
"""What each training would import by itself."""
AGENTS = {
    "ppo": lambda **fields: PPOConfig(epochs=1, minibatches=1, **{"rollout_length": 8, **fields}),
    "inline": lambda **fields: IMPALAConfig(
        actors=ActorsConfig(kind="inline"), unroll_length=8, batch_size=4, **fields
    ),
    "threads": lambda **fields: IMPALAConfig(unroll_length=8, **{"batch_size": 2, **fields}),
}


def deadlock() -> None:
    """In native code, where no signal is a way out."""
    mutex = ctypes.create_string_buffer(64)  # zeros: PTHREAD_MUTEX_INITIALIZER
    library = ctypes.CDLL(None)
    for _ in range(2):
        library.pthread_mutex_lock(mutex)


def broken_pipe() -> None:
    """As of a simulator that has died."""
    raise BrokenPipeError(32, "the simulator is gone")


def interrupt() -> None:
    """As of a library that takes Ctrl-C for its own."""
    raise KeyboardInterrupt


def spin() -> None:
    while True:
        pass


FAULTS = {
    "nothing": lambda: None,
    "sleep": lambda: time.sleep(10**6),
    "spin": spin,
    "deadlock": deadlock,
    "slow": lambda: time.sleep(0.2),
    "raise": lambda: 1 // 0,
    "exit": lambda: sys.exit(0),
    "pipe": broken_pipe,
    "interrupt": interrupt,
    "segfault": lambda: ctypes.string_at(0),
    "nohup": lambda: os.kill(os.getpid(), signal.SIGHUP),
}


EVALUATION_GAMES = 3
"""And so many environments: training has more, and actors fewer."""


def plant(fault: str, at: int, run: Path) -> None:
    """Have the environments that are made last do it from their ``at``-th step on, and say so.

    ``evaluating/FAULT`` is of the environments of evaluations, ``closing/FAULT`` and
    ``resetting/FAULT`` of closing and resetting those of training.
    """
    place, _, fault = fault.rpartition("/")
    fault, _, steps_long = fault.partition(":")
    act = FAULTS.get(fault) or functools.partial(disks.FAULTS[fault], run)
    end = at + int(steps_long) if steps_long else None
    make = RecallConfig.make
    lock, steps = threading.Lock(), [0]

    def planted(self: RecallConfig, *given: Any, **more: Any) -> Any:
        env: Any = make(self, *given, **more)
        if place == "closing" and env.num_envs > 1:  # one is made to see whether it can be
            env.close = lambda: (print(f"planted: {fault}", flush=True), act())
            return env
        if place == "resetting" and env.num_envs > 1:
            env.reset = lambda: (print(f"planted: {fault}", flush=True), act())
            return env
        if place == "evaluating" and env.num_envs != EVALUATION_GAMES:
            return env
        play, mine = env.step, threading.local()

        def step(action: Any) -> Any:
            with lock:
                steps[0] += 1
                mine.due = steps[0] == at or (fault == "slow" and steps[0] > at)
                mine.over = steps[0] == end
            if mine.due:
                print(f"planted: {fault}", flush=True)
                act()
            if mine.over:
                disks.MENDED[fault](run)
                print(f"mended: {fault}", flush=True)
            return play(action)

        env.step = step
        return env

    RecallConfig.make = planted  # type: ignore[method-assign]


def main(run: str, agent: str, fault: str, at: str, *changes: str) -> None:
    # what is told to a person is the same, only sooner
    watchdog.GRACE = watchdog.LEAVE_SECONDS = actors.STEP_SECONDS = 1.0
    watchdog.CLOSE_SECONDS = 3.0
    watchdog.TICK = session.RETRY_SECONDS = 0.1
    if fault == "nohup":
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if fault.startswith("read-only"):
        disks.obey_modes()
    plant(fault, int(at), Path(run))
    fields = dict(FIELDS)
    for change in changes:
        name, _, value = change.partition("=")
        fields[name] = json.loads(value)
    config = dataclasses.replace(AGENTS[agent.removeprefix("cli-")](**fields), run_dir=run)
    if agent.startswith("cli-"):
        preset = Path(f"{run}.yaml")
        preset.write_text(yaml.safe_dump(config_to_dict(config)))
        cli.main(["train", str(preset), "--resume", "auto"])
        return
    try:
        train(config, resume="auto")
    except KeyboardInterrupt:
        sys.exit(130)


def fork(work: Callable[..., None], arguments: list[str], output: str) -> int:
    """Start a training, or other work; returns its process."""
    child = os.fork()
    if child:
        return child
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 0
    try:
        work(*arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


WORK: dict[str, Callable[..., None]] = {"start": main, "save": saver.main}


def serve() -> None:
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()  # else each would copy all of it to look for garbage
    for line in sys.stdin:
        command, *given = json.loads(line)
        if command in WORK:
            answer = fork(WORK[command], *given)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(given[0], 0)[1])
        print(answer, flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        main(*sys.argv[1:])
    else:
        serve()
