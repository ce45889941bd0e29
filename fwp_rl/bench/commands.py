"""The benchmarks as ``fwp-rl bench`` offers them: their flags, read before torch is imported."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal

import tyro

from fwp_rl.bench.names import check_names, core_names, op_names
from fwp_rl.config import ConfigError

__all__ = ["BENCHMARKS", "cores", "envs", "kernels", "scaling", "tables", "training"]

Cores = Annotated[tuple[str, ...], tyro.conf.arg(metavar="CORE ...")]

MOST_ENVS = 4096
"""As many environments as a run may have."""
MOST_PROCESSES = MOST_THREADS = 256
MOST_SECONDS = 60.0


def training(
    *,
    cores: Cores = ("feedforward", "lstm", "delta_net"),
    agent: Literal["ppo", "impala", "pqn"] = "ppo",
    encoder: Literal["nature_cnn", "impala_resnet"] = "nature_cnn",
    game: str = "Pong",
    num_envs: int | None = None,
    unroll: int | None = None,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    iterations: int = 10,
    rounds: int | None = None,
    against_floor: bool = False,
    beside: int = 0,
    quick: bool = False,
    output: Path | None = None,
    figure: Path | None = None,
) -> None:
    """Steps per second of an agent with each core, each run in a fresh process. PPO: rollout 128, 4
    epochs x 4 minibatches; IMPALA and PQN: the presets impala_cpu and pqn_cpu.

    With --against-floor also what the same arithmetic and emulators take alone, at the best split
    of the cores: the floor of an iteration, and the share of it that training reaches.

    Args:
        cores: Registered cores to compare.
        agent: Which agent trains.
        encoder: The network before the core.
        game: Atari game.
        num_envs: Environments; none: 16 with PPO, else the preset's.
        unroll: Steps of each environment between updates; none: 128 with PPO, else the
            preset's.
        precision: Of the encoder; auto is bfloat16 where the processor computes in it.
        iterations: Measured iterations of 2,048 steps or more per run, after two that warm up.
        rounds: Runs per core, which take turns; none: 3, and 10 with --against-floor or --beside.
        against_floor: Also measure the parts of an iteration alone, on the CPU.
        beside: Also run beside so many busy processes, and beside them a control that never waits.
        quick: Tiny sizes, a moment each: shows that all of it runs, times nothing.
        output: Also write the figures to this JSON file.
        figure: Also draw an iteration by stage, in this PNG file.
    """
    _check_counts(iterations=iterations, rounds=rounds, num_envs=num_envs, unroll=unroll)
    _check_range("num_envs", num_envs, MOST_ENVS)
    if agent == "pqn" and against_floor:
        raise ConfigError(
            "against_floor: got agent pqn, expected ppo or impala: it has no floor yet"
        )
    if not 0 <= beside <= MOST_PROCESSES:
        raise ConfigError(f"beside: got {beside}, expected 0 to {MOST_PROCESSES}")
    _check_cores(cores)
    _check_game(game)

    from fwp_rl.bench.runs import Task
    from fwp_rl.bench.training import Extent, bench_training

    careful = against_floor or beside > 0
    task = Task(
        agent=agent,
        encoder=encoder,
        game=game,
        num_envs=num_envs or (4 if quick else None),
        unroll=unroll or (4 if quick else None),
        precision=precision,
        device="cpu" if careful else "auto",
    )
    extent = Extent(iterations=iterations)
    if quick:
        extent = Extent(iterations=2, least_steps=1, control_seconds=0.05)
    bench_training(
        cores,
        task,
        extent,
        rounds=rounds or (1 if quick else 10 if careful else 3),
        against_floor=against_floor,
        beside=beside,
        output=output,
        figure=figure,
    )


def scaling(
    *,
    core: str = "delta_net",
    agent: Literal["ppo", "impala", "pqn"] = "ppo",
    encoder: Literal["nature_cnn", "impala_resnet"] = "nature_cnn",
    game: str = "Pong",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    quick: bool = False,
    output: Path | None = None,
) -> None:
    """Steps per second and peak memory of whole training runs with 8 to 256 environments and
    unrolls of 16 to 512 steps, each in a fresh process: 10 to 25 minutes on 2 cores.

    A run that fails, for want of memory say, has its row, which says how.

    Args:
        core: A registered core.
        agent: Which agent trains.
        encoder: The network before the core.
        game: Atari game.
        precision: Of the encoder; auto is bfloat16 where the processor computes in it.
        quick: Tiny sizes, a moment each: shows that all of it runs, times nothing.
        output: Also write the figures to this JSON file.
    """
    _check_cores((core,))
    _check_game(game)

    from fwp_rl.bench.runs import LEAST_STEPS, Task
    from fwp_rl.bench.scaling import GRID, QUICK, bench_scaling

    bench_scaling(
        core,
        Task(agent=agent, encoder=encoder, game=game, precision=precision),
        QUICK if quick else GRID,
        least_steps=1 if quick else LEAST_STEPS,
        output=output,
    )


def envs(
    *,
    envs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ENV ...")] = (),
    num_envs: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = (8, 16, 64),
    threads: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = (),
    seconds: float = 1.0,
    rounds: int = 3,
    quick: bool = False,
    output: Path | None = None,
) -> None:
    """Environment steps per second without an agent, by number of environments and threads. What
    another package has to be installed for is told, and left out.

    Args:
        envs: pong, breakout, cartpole, ... ; none: all that there are.
        num_envs: Numbers of environments.
        threads: Numbers of threads, of environments that can be played by several; none: 1, 2, 4,
            ... up to the cores.
        seconds: Of each measurement.
        rounds: Of which the medians are taken.
        quick: A moment each: shows that all of it runs, times nothing.
        output: Also write the figures to this JSON file.
    """
    from fwp_rl.bench.env_cases import CASES
    from fwp_rl.machine import usable_cores

    check_names("envs", "environment", envs, CASES)
    for count in num_envs or (0,):
        _check_range("num_envs", count, MOST_ENVS)
    for count in threads:
        _check_range("threads", count, MOST_THREADS)
    _check_counts(rounds=rounds)
    _check_seconds(seconds)
    cores = usable_cores()
    powers = [2**n for n in range(cores.bit_length()) if 2**n < cores]

    from fwp_rl.bench.envs import bench_envs

    bench_envs(
        envs or tuple(CASES),
        num_envs=num_envs,
        threads=threads or (*powers, cores),
        seconds=0.01 if quick else seconds,
        rounds=1 if quick else rounds,
        output=output,
    )


def cores(
    *,
    cores: Cores = (),
    steps: int = 128,
    columns: int = 4,
    acting_columns: int = 16,
    hidden_size: int | None = None,
    seconds: float = 0.1,
    rounds: int = 5,
    quick: bool = False,
    output: Path | None = None,
) -> None:
    """Forward and backward over an unroll, and one acting step, of each core beside its matrix
    products and ops alone.

    Args:
        cores: Registered cores; none: all of them.
        steps: T of the unroll.
        columns: B of the unroll: environments of a minibatch.
        acting_columns: B of the acting step.
        hidden_size: Of every core that has one; none: each core's default.
        seconds: For which each is run in a round.
        rounds: Of which the medians are taken.
        quick: Tiny sizes, a moment each: shows that all of it runs, times nothing.
        output: Also write the figures to this JSON file.
    """
    _check_counts(
        steps=steps,
        columns=columns,
        acting_columns=acting_columns,
        hidden_size=hidden_size,
        rounds=rounds,
    )
    _check_seconds(seconds)
    names = cores or tuple(core_names())
    _check_cores(names)

    from fwp_rl.bench.cores import Sizes, bench_cores

    sizes = Sizes(
        steps=steps, columns=columns, acting_columns=acting_columns, hidden_size=hidden_size
    )
    if quick:
        sizes = Sizes(steps=3, columns=2, acting_columns=2, hidden_size=hidden_size or 16)
    bench_cores(
        names,
        sizes,
        seconds=0.0 if quick else seconds,
        rounds=1 if quick else rounds,
        output=output,
    )


def tables(page: Annotated[Path, tyro.conf.Positional], /) -> None:
    """Make the tables of a Markdown page anew from the JSON files of --output that it names:

    <!-- tables of benchmarks/FILE.json --> ... <!-- end of tables -->

    Args:
        page: The page; the paths in it are relative to its folder.
    """
    from fwp_rl.bench.pages import write_tables

    for file in write_tables(page):
        print(f"{page}: {file} is not there yet")


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
    check_names("ops", "op", ops, op_names())

    from fwp_rl.bench.kernels import bench_kernels
    from fwp_rl.kernels import OPS

    bench_kernels(device=device, ops=ops or tuple(OPS), quick=quick, json=json)


def _check_counts(**given: int | None) -> None:
    for name, count in given.items():
        if count is not None and count < 1:
            raise ConfigError(f"{name}: got {count}, expected 1 or more")


def _check_range(name: str, count: int | None, most: int) -> None:
    if count is not None and not 1 <= count <= most:
        raise ConfigError(f"{name}: got {count}, expected 1 to {most:,}")


def _check_seconds(seconds: float) -> None:
    if not 0 < seconds <= MOST_SECONDS:
        raise ConfigError(f"seconds: got {seconds}, expected more than 0 to {MOST_SECONDS:g}")


def _check_game(game: str) -> None:
    from fwp_rl.envs.atari import AtariConfig

    AtariConfig(game=game)


def _check_cores(cores: tuple[str, ...]) -> None:
    if not cores:
        raise ConfigError("cores: got none, expected one or more")
    check_names("cores", "core", cores, core_names())


BENCHMARKS: Final[dict[str, tuple[Callable[..., None], str]]] = {
    "training": (
        training,
        "environment steps per second of whole training runs, and how near their floor that is",
    ),
    "scaling": (
        scaling,
        "speed and peak memory of training by number of environments and length of unroll",
    ),
    "envs": (envs, "environment steps per second without an agent"),
    "cores": (cores, "every core beside its matrix products and ops alone"),
    "kernels": (
        kernels,
        "the fast-weight kernels, beside what they replace and what the machine could do",
    ),
    "tables": (tables, "make the tables of a page anew from results"),
}
"""Name → the command, and what it measures."""
