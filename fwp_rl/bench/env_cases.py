"""The environments that ``fwp-rl bench envs`` knows, and how one is timed. Without torch, and their
packages are imported by who makes one."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fwp_rl.envs import EnvConfig
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.envs.classic import ClassicConfig
from fwp_rl.envs.gym import GymnasiumConfig
from fwp_rl.envs.minigrid import MiniGridConfig
from fwp_rl.envs.procgen import ProcgenConfig
from fwp_rl.envs.toy import RecallConfig

__all__ = ["CASES", "Case", "Size", "play"]

Size = tuple[int, int]
"""Environments, threads."""

WARM_STEPS: Final = 10
DRAWN: Final = 64
"""Actions that lie ready, and steps between two looks at the clock."""


@dataclass(frozen=True)
class Case:
    """An environment to be timed."""

    config: Callable[[], EnvConfig]
    threads: bool = True
    """Whether it can be played by several threads."""


CASES: Final[dict[str, Case]] = {
    "pong": Case(lambda: AtariConfig(game="Pong")),
    "breakout": Case(lambda: AtariConfig(game="Breakout")),
    "pong_ale": Case(lambda: AtariConfig(game="Pong", backend="ale")),
    "cartpole": Case(lambda: ClassicConfig(task="CartPole-v1")),
    "catch": Case(lambda: ClassicConfig(task="Catch-v0")),
    "minigrid": Case(lambda: MiniGridConfig(task="MemoryS9-v0")),
    "procgen": Case(ProcgenConfig),
    "recall": Case(RecallConfig, threads=False),
    "cartpole_gymnasium": Case(lambda: GymnasiumConfig(id="CartPole-v1"), threads=False),
}
"""Name → environment; what another package has to be installed for is left out where it is not."""


def play(name: str, sizes: Sequence[Size], seconds: float) -> dict[Size, float]:
    """Steps per second of all environments together, at each size. To be called in a fresh process:
    some environments end theirs where they cannot run."""
    config = CASES[name].config()
    speeds = {}
    for num_envs, threads in sizes:
        env = config.make(num_envs, list(range(num_envs)), num_threads=threads)
        draws = np.random.default_rng(0).integers(
            env.spec.num_actions, size=(DRAWN, num_envs), dtype=np.int32
        )
        env.reset()
        for action in draws[:WARM_STEPS]:
            env.step(action)
        start, steps = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < seconds or not steps:
            for action in draws:
                env.step(action)
            steps += DRAWN * num_envs
        speeds[num_envs, threads] = steps / passed
        env.close()
    return speeds
