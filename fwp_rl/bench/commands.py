"""The benchmarks as ``fwp-rl bench`` offers them: their flags, read before torch is imported."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal

import tyro

from fwp_rl.config import ConfigError

__all__ = ["BENCHMARKS", "kernels", "training"]


def training(
    cores: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CORE")] = (
        "feedforward",
        "lstm",
        "delta_net",
    ),
    *,
    agent: Literal["ppo", "impala"] = "ppo",
    encoder: Literal["nature_cnn", "impala_resnet"] = "nature_cnn",
    game: str = "Pong",
    num_envs: int | None = None,
    iterations: int = 10,
    rounds: int = 3,
    output: Path | None = None,
) -> None:
    """Steps per second of an agent with each core. PPO: rollout 128, 4 epochs x 4 minibatches;
    IMPALA: the preset impala_cpu.

    Args:
        cores: Registered cores to compare.
        agent: Which agent trains.
        encoder: The network before the core.
        game: Atari game.
        num_envs: Environments; none: 16 with PPO, the preset's with IMPALA.
        iterations: Measured iterations of 2,048 steps per run, after two that warm up.
        rounds: Runs per core; the cores take turns.
        output: Also write the figures to this JSON file.
    """
    if iterations < 1 or rounds < 1:
        raise ConfigError(
            f"iterations and rounds: got {iterations} and {rounds}, expected 1 or more"
        )

    from fwp_rl.bench.training import bench_training

    bench_training(
        cores,
        agent=agent,
        encoder=encoder,
        game=game,
        num_envs=num_envs,
        iterations=iterations,
        rounds=rounds,
        output=output,
    )


def kernels(
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    ops: tuple[str, ...] = (),
    quick: bool = False,
    json: Path | None = None,
) -> None:
    """Time the fast-weight kernels; print a table. Exit code 1 where an op gives wrong results.

    Args:
        device: cpu compares numba's kernels, cuda those for the GPU.
        ops: The ops to time; none: all of them.
        quick: Tiny shapes, a moment each: shows that all of it runs, times nothing.
        json: Also write the figures to this file.
    """
    from fwp_rl.bench.kernels import bench_kernels
    from fwp_rl.kernels import OPS

    bench_kernels(device=device, ops=ops or tuple(OPS), quick=quick, json=json)


BENCHMARKS: Final[dict[str, tuple[Callable[..., None], str]]] = {
    "training": (
        training,
        "environment steps per second of whole training runs, and what the core costs",
    ),
    "kernels": (
        kernels,
        "the fast-weight kernels, beside what they replace and what the machine could do",
    ),
}
"""Name → the command, and what it measures."""
