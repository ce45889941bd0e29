"""The agents' own training loops on the meta device, and what one turn of each asks of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fwp_rl.agents import impala, ppo, pqn
from fwp_rl.envs import EnvConfig, EnvStep
from fwp_rl.rl.actors import ActorsConfig
from fwp_rl.rl.collector import Actor, Collector
from fwp_rl.runs.config import TrainConfig
from fwp_rl.training.session import TrainingSession
from fwp_rl.types import EnvSpec

from .device import META, Calls, as_a_gpu, generator

COLUMNS = 4
"""How many there are changes nothing of the number of calls."""

AGENTS: dict[type[TrainConfig], Any] = {
    ppo.PPOConfig: ppo,
    impala.IMPALAConfig: impala,
    pqn.PQNConfig: pqn,
}


@dataclass(frozen=True, kw_only=True)
class Screens(EnvConfig):
    """Shows nothing, in the shapes of an environment that takes seconds to start."""

    shown: EnvSpec

    def spec(self) -> EnvSpec:
        return self.shown

    def make(self, num_envs: int, seeds: Sequence[int], **_: Any) -> Any:
        return _Screens(self.shown, num_envs)


class _Screens:
    def __init__(self, spec: EnvSpec, num_envs: int) -> None:
        self.spec, self.num_envs = spec, num_envs

    def reset(self) -> NDArray[Any]:
        return np.zeros((self.num_envs, *self.spec.observation_shape), self.spec.observation_dtype)

    def step(self, action: NDArray[Any]) -> EnvStep:
        no = np.zeros(self.num_envs, np.bool_)
        return EnvStep(
            obs=self.reset(),
            reset=no,
            reward=np.zeros(self.num_envs, np.float32),
            terminated=no,
            truncated=no,
            mask=~no,
        )

    def close(self) -> None:
        pass


def small(config: TrainConfig, *, steps: int, **changes: Any) -> Any:
    """The config with a few environments, in the learner's thread, and rollouts of some steps; PPO
    and PQN with one gradient step. No size of a tensor changes the number of calls."""
    if not isinstance(config, impala.IMPALAConfig):
        changes = {"rollout_length": steps, "epochs": 1, "minibatches": 1} | changes
    else:
        actors = ActorsConfig(kind="inline", count=1)
        changes |= {"unroll_length": steps, "batch_size": COLUMNS, "actors": actors}
    return replace(
        config, num_envs=COLUMNS, device="cpu", precision="float32", keep_memory=False, **changes
    )


class _Session(TrainingSession):
    """Without a run directory: nothing is written, for the numbers are none. A turn of the loop
    counts as one step."""

    def __init__(self, config: TrainConfig, *, resume: None) -> None:
        super().__init__(config)
        self.device = META

    def generator(self, stream: str, device: Any = "cpu") -> torch.Generator:
        return generator() if device == META else super().generator(stream, device)

    def begin(self, policy: Any, optimizer: Any) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    tell = warn
    logs_next = True  # type: ignore[assignment]

    def log(self, steps: int, games: Any, metrics: Any) -> None:
        self.step += 1

    def save(self) -> None:
        pass

    save_if_due = save
    path = None  # type: ignore[assignment]


def turns(config: TrainConfig, count: int) -> list[Calls]:
    """Train on the meta device; returns what each turn of the loop asked of it, but the first,
    which makes what lasts.

    count  turns in all
    """
    with as_a_gpu() as device:
        at_log: list[Calls] = []

        class Session(_Session):
            def log(self, steps: int, games: Any, metrics: Any) -> None:
                super().log(steps, games, metrics)
                at_log.append(device.calls.copy())

        agent = AGENTS[type(config)]
        before, agent.TrainingSession = agent.TrainingSession, Session
        try:
            replace(config, total_steps=count).train()
        finally:
            agent.TrainingSession = before
    return [after - before for before, after in pairwise(at_log)]


def acting_step(config: TrainConfig) -> Calls:
    """What one step of a rollout asks of the device, by two rollouts that differ in one step."""
    counts = []
    with as_a_gpu() as device:
        policy = config.build_policy().to(META)
        for steps in (2, 3):
            env = config.env.make(COLUMNS, list(range(COLUMNS)))
            collector = Collector(Actor(policy, env, generator=generator()), steps)
            rollout = collector.new_rollout()
            before = device.calls.copy()
            collector.collect(rollout)
            counts.append(device.calls - before)
            env.close()
    two, three = counts
    return three - two
