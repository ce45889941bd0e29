"""Environment steps per second of whole training runs, and what the core costs of them."""

import contextlib
import dataclasses
import io
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from fwp_rl.agents.impala import IMPALAConfig
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.cores import CORES, build_core
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.machine import choose_device, facts, set_gpu_arithmetic
from fwp_rl.models.base import ENCODERS
from fwp_rl.models.policy import Policy, has_bfloat16
from fwp_rl.runs.config import TrainConfig
from fwp_rl.runs.files import write_json
from fwp_rl.runs.metrics import read_metrics
from fwp_rl.runs.presets import load_preset
from fwp_rl.types import State

__all__ = ["bench_training"]

ITERATION = 2048
"""Steps that are called an iteration: a rollout of PPO at the default sizes."""
WARM_UP = 2
"""First iterations of a run, left out: they compile kernels and fill caches."""


def bench_training(
    cores: Sequence[str],
    *,
    agent: Literal["ppo", "impala"],
    encoder: Literal["nature_cnn", "impala_resnet"],
    game: str,
    num_envs: int | None,
    iterations: int,
    rounds: int,
    output: Path | None,
) -> None:
    """Measure and print steps per second, as ``commands.training`` says."""
    base: PPOConfig | IMPALAConfig = PPOConfig()
    if agent == "impala":
        preset = load_preset("impala_cpu")
        assert isinstance(preset, IMPALAConfig)
        base = preset
    configs = {
        name: dataclasses.replace(
            base,
            env=AtariConfig(game=game),
            encoder=ENCODERS[encoder](),
            core=CORES[name](),
            num_envs=num_envs or base.num_envs,
            # dummy steps do not count, so the last iteration may need a little more
            total_steps=(iterations + WARM_UP) * ITERATION,
            anneal_learning_rate=False,
            checkpoint_minutes=60,
            evaluation_games=0,
            video=False,
            plain=True,
        )
        for name in cores
    }
    console = Console()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in configs}
    # a fresh process per run: threads and allocator start alike for each
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for round_ in range(rounds):
            for name, config in configs.items():
                runs[name].append(pool.apply(_measure, (config,)))
                speed = runs[name][-1]["steps_per_second"]
                console.print(f"round {round_ + 1} of {rounds}: {name} {speed:.0f} steps/s")
    figures = {
        name: {key: statistics.median(run[key] for run in measured) for key in measured[0]}
        for name, measured in runs.items()
    }
    columns = next(iter(configs.values())).num_envs
    console.print(_table(figures, f"{agent}, {encoder}, {game}, {columns} environments"))
    if output is not None:
        device = choose_device("auto")
        set_gpu_arithmetic(next(iter(configs.values())).matmul_precision)  # as in their processes
        write_json(
            output,
            {
                "benchmark": "training",
                "agent": agent,
                "encoder": encoder,
                "game": game,
                "num_envs": columns,
                "iterations": iterations,
                "rounds": rounds,
                "median": figures,
                "runs": runs,
                **facts(device),
                "bfloat16": has_bfloat16(device),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )


def _measure(config: TrainConfig) -> dict[str, float]:
    """One training run: steps over seconds after the warm-up, and where the time went. The shares
    of acting and environment are of the actors' time, where these are threads of their own."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        with contextlib.redirect_stdout(io.StringIO()):  # the table at the end is what counts
            dataclasses.replace(config, run_dir=str(run)).train()
        rows = read_metrics(run / "metrics.jsonl")
    # dummy steps do not count: an iteration may end a little before its 2,048th step
    rows = [row for row in rows if row["step"] >= (WARM_UP - 0.5) * ITERATION]
    seconds = rows[-1]["time"] - rows[0]["time"]
    figures = {"steps_per_second": (rows[-1]["step"] - rows[0]["step"]) / seconds}
    for activity in ("acting", "environment", "learning"):
        # a batch of IMPALA's that took from no new unroll knows nothing of its actors
        shares = [row[name] for row in rows[1:] if (name := f"time/{activity}") in row]
        figures[activity] = statistics.fmean(shares)
    if isinstance(config, PPOConfig):
        per_iteration = config.num_envs * config.rollout_length
        figures["core"] = _core_seconds(config) * figures["steps_per_second"] / per_iteration
    return figures


def _core_seconds(config: PPOConfig) -> float:
    """Seconds that the core alone takes of one iteration, timed by itself at the same shapes."""
    device = choose_device(config.device)
    policy = Policy(config, config.env.spec())
    core = build_core(config.core, policy.core.input_size).to(device)

    def inputs(steps: int, columns: int) -> tuple[torch.Tensor, State, torch.Tensor]:
        # the encoder needs the gradient of x, so it is part of the cost
        x = torch.randn(steps, columns, core.input_size, device=device, requires_grad=True)
        reset = torch.zeros(steps, columns, dtype=torch.bool, device=device)
        reset[steps // 2, 0] = True
        return x, core.initial_state(columns, device), reset

    one_step = inputs(1, config.num_envs)
    minibatch = inputs(config.rollout_length, config.num_envs // config.minibatches)

    def act() -> None:
        with torch.no_grad():
            core(*one_step)

    def learn() -> None:
        core(*minibatch)[0].sum().backward()

    acting = (config.rollout_length + 1) * _seconds(act, 50)
    return acting + config.epochs * config.minibatches * _seconds(learn, 10)


def _seconds(run: Callable[[], None], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _table(figures: dict[str, dict[str, float]], title: str) -> Table:
    first: dict[str, Any] = next(iter(figures.values()))
    table = Table("core", title=title, title_justify="left")
    headers = ["steps/s", "ratio", "acting", "environment", "learning"]
    if "core" in first:
        headers.append("of it all: core")
    for name in headers:
        table.add_column(name, justify="right")
    for name, row in figures.items():
        table.add_row(
            name,
            f"{row['steps_per_second']:.0f}",
            f"{row['steps_per_second'] / first['steps_per_second']:.2f}",
            *(f"{100 * share:.0f} %" for key, share in row.items() if key != "steps_per_second"),
        )
    return table
