"""The floor of an iteration: what its parts take at their best, one after the other.

    floor = emulator + acting + passes × learning

Each part is measured alone, at every split of the cores that is on offer, and the best split
counts: acting and learning in one team of threads that share each product, or apart, one thread
to a core, each with its share of the columns; the emulators with one thread to as many as there are
cores. Apart, the shares' gradients are added, and the threads wait for each other at every
optimizer's step, as they must.
"""

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import numpy as np
import torch

from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.agents.pqn import PQNConfig
from fwp_rl.bench.bare import Acting, Learning
from fwp_rl.bench.runs import AgentConfig, Plan, plan
from fwp_rl.envs.pool import Pool
from fwp_rl.machine import keep_freed_memory, usable_cores
from fwp_rl.models.policy import Policy

__all__ = ["PARTS", "Parts", "best_splits", "floors", "measure_parts"]

PARTS: Final = {"emulator": "environment", "acting": "acting", "learning": "learning"}
"""Part → the stage of a training run that it is the floor of."""

Parts = dict[str, dict[str, float]]
"""Part → split of the cores → seconds of an iteration."""

WARM_STEPS = 4
ENVPOOL = (
    "stack_num",
    "frame_skip",
    "full_action_space",
    "repeat_action_probability",
    "episodic_life",
    "noop_max",
    "use_fire_reset",
    "max_episode_steps",
    "reward_clip",
)
"""What the emulators are told of a game's rules."""


def measure_parts(config: AgentConfig) -> Parts:
    """Every part at every split, once, in seconds of an iteration. To be called in a fresh process.

    Raises RuntimeError where a core's products are not known.
    """
    keep_freed_memory()  # as training does
    torch.manual_seed(config.seed)
    cores, sizes = usable_cores(), plan(config)
    torch.set_num_threads(cores)
    policy = Policy(config, config.env.spec())
    return {
        "emulator": {
            _count(threads, "thread"): _play(config, sizes, threads)
            for threads in range(1, min(cores, sizes.num_envs) + 1)
        },
        "acting": {
            _split(parts): _act(policy, sizes, parts) for parts in _splits(sizes.num_envs, cores)
        },
        "learning": {
            _split(parts): _learn(config, policy, sizes, parts)
            for parts in _splits(sizes.columns, cores)
        },
    }


def best_splits(rounds: Sequence[Parts]) -> dict[str, str]:
    """Part → the split with the least median over the rounds."""
    return {
        part: min(splits, key=lambda split: statistics.median(r[part][split] for r in rounds))
        for part, splits in rounds[0].items()
    }


def floors(rounds: Sequence[Parts]) -> list[float]:
    """Seconds of an iteration in each round: the sum of its parts at their best splits."""
    best = best_splits(rounds)
    return [sum(parts[part][split] for part, split in best.items()) for parts in rounds]


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' if n > 1 else ''}"


def _split(parts: Sequence[int]) -> str:
    return "one team" if len(parts) == 1 else f"{len(parts)} apart"


def _splits(columns: int, cores: int) -> list[list[int]]:
    """Columns of each team of threads: one for all, and one to a core."""
    shares = min(columns, cores)
    apart = [columns // shares + (n < columns % shares) for n in range(shares)]
    return [[columns], apart] if shares > 1 else [[columns]]


def _play(config: AgentConfig, sizes: Plan, threads: int) -> float:
    env = config.env.make(1, [config.seed])
    described = env.describe()
    env.close()
    rules = {name: described[name] for name in ENVPOOL}
    actions = env.spec.num_actions
    seeds = range(config.seed, config.seed + sizes.num_envs)
    pool = Pool(
        described["task_id"],
        sizes.num_envs,
        list(seeds),
        num_actions=actions,
        num_threads=threads,
        **rules,
    )
    draws = np.random.default_rng(config.seed).integers(
        actions, size=(WARM_STEPS + sizes.steps, sizes.num_envs)
    )
    pool.reset()
    for action in draws[:WARM_STEPS]:
        pool.step(action)
    seconds = _seconds(lambda: [pool.step(action) for action in draws[WARM_STEPS:]])
    pool.close()
    return seconds


def _act(policy: Policy, sizes: Plan, parts: Sequence[int]) -> float:
    shares = [Acting(policy, columns) for columns in parts]
    with _Team(len(parts)) as team:
        team([partial(share, WARM_STEPS) for share in shares])
        return _seconds(lambda: team([partial(share, sizes.acting) for share in shares]))


def _learn(config: AgentConfig, policy: Policy, sizes: Plan, parts: Sequence[int]) -> float:
    shares = [Learning(policy, sizes.length, columns) for columns in parts]
    parameters = list(policy.parameters())
    optimizer = _optimizer(config, parameters)

    def update(team: _Team, count: int) -> None:
        for _ in range(count):
            first, *others = team(shares)
            for n, parameter in enumerate(parameters):
                parameter.grad = first[n]
                for other in others:
                    if parameter.grad is not None:
                        parameter.grad += other[n]
            optimizer.step()

    updates = max(1, round(sizes.updates))
    with _Team(len(parts)) as team:
        update(team, 1)
        seconds = _seconds(partial(update, team, updates))
    return sizes.passes * sizes.updates / updates * seconds


def _optimizer(config: AgentConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The agent's, which moves next to nothing here."""
    rate = 1e-9
    if isinstance(config, PPOConfig):
        return torch.optim.Adam(parameters, lr=rate, eps=config.adam_epsilon, fused=True)
    if isinstance(config, PQNConfig):
        raise RuntimeError("the products of a Q-network are not known")
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, eps=config.optimizer_epsilon, fused=True)
    return torch.optim.RMSprop(
        parameters, lr=rate, alpha=config.rmsprop_alpha, eps=config.optimizer_epsilon
    )


class _Team:
    """Calls functions beside each other: one alone in this thread, with torch's threads; several in
    a thread each, which computes alone."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count) if count > 1 else None
        if self._pool is not None:
            started = threading.Barrier(count)

            def begin() -> None:
                started.wait()  # so that every thread of the pool is there
                torch.set_num_threads(1)

            for begun in [self._pool.submit(begin) for _ in range(count)]:
                begun.result()

    def __call__(self, functions: Sequence[Callable[[], Any]]) -> list[Any]:
        if self._pool is None:
            return [function() for function in functions]
        return [done.result() for done in [self._pool.submit(f) for f in functions]]

    def __enter__(self) -> "_Team":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
