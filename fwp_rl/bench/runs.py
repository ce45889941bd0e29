"""Whole training runs as the benchmarks measure them: their configs, and what one of them shows."""

import contextlib
import dataclasses
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from fwp_rl.agents.impala import IMPALAConfig
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.agents.pqn import PQNConfig
from fwp_rl.bench.processes import peak_memory
from fwp_rl.cores import CORES, build_core
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.machine import choose_device
from fwp_rl.models.base import ENCODERS
from fwp_rl.runs.metrics import read_metrics
from fwp_rl.runs.presets import load_preset
from fwp_rl.types import State

__all__ = ["STAGES", "AgentConfig", "Plan", "Task", "measure", "plan", "task_config"]

LEAST_STEPS = 2048
"""Steps of a measured iteration, at least: a rollout of PPO at the default sizes."""
WARM_UP = 2
"""First iterations of a run, left out: they compile kernels and fill caches."""
STAGES = ("acting", "environment", "learning")

AgentConfig = PPOConfig | PQNConfig | IMPALAConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained in a benchmark, whatever the core."""

    agent: Literal["ppo", "impala", "pqn"] = "ppo"
    encoder: Literal["nature_cnn", "impala_resnet"] = "nature_cnn"
    game: str = "Pong"
    num_envs: int | None = None
    """None: PPO's default, the preset's with IMPALA and PQN."""
    unroll: int | None = None
    """Steps of an environment between two updates; None as above."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"


@dataclasses.dataclass(frozen=True)
class Plan:
    """An iteration: every environment plays one unroll, and the learner learns from all of it."""

    num_envs: int
    steps: int
    """Of every environment."""
    acting: int
    """Passes that acting makes, those for a bootstrap value included."""
    columns: int
    """Environments in a batch."""
    length: int
    """Steps of a batch, that for a bootstrap value included."""
    updates: float
    """Gradient steps of a pass over the iteration's steps."""
    passes: int


def plan(config: AgentConfig) -> Plan:
    """An iteration of this agent."""
    if not isinstance(config, IMPALAConfig):
        steps, columns = config.rollout_length, config.num_envs // config.minibatches
        return Plan(
            config.num_envs, steps, steps + 1, columns, steps, config.minibatches, config.epochs
        )
    steps, columns = config.unroll_length, config.batch_size
    updates = config.num_envs / columns
    return Plan(config.num_envs, steps, steps, columns, steps + 1, updates, 1)


def task_config(
    task: Task, core: str, *, iterations: int, warm_up: int = WARM_UP, least: int = LEAST_STEPS
) -> AgentConfig:
    """A run of so many measured iterations of ``least`` steps or more."""
    base: AgentConfig = PPOConfig()
    if task.agent != "ppo":
        preset = load_preset(f"{task.agent}_cpu")
        assert isinstance(preset, (IMPALAConfig, PQNConfig))
        base = preset
    encoder: Any = ENCODERS[task.encoder]
    given: dict[str, Any] = {}
    if task.unroll:
        given["unroll_length" if task.agent == "impala" else "rollout_length"] = task.unroll
    config = dataclasses.replace(
        base,
        env=AtariConfig(game=task.game),
        encoder=encoder(layer_norm=task.agent == "pqn"),
        core=CORES[core](),
        num_envs=task.num_envs or base.num_envs,
        precision=task.precision,
        device=task.device,
        anneal_learning_rate=False,
        checkpoint_minutes=60,
        evaluation_games=0,
        video=False,
        plain=True,
        **given,
    )
    unrolls = config.num_envs * plan(config).steps
    steps = (iterations + warm_up) * max(unrolls, least)
    # dummy steps do not count, and must not cost another unroll
    return dataclasses.replace(config, total_steps=max(1, steps - unrolls // 2))


def measure(config: AgentConfig, folder: Path, warm: int, core: bool) -> dict[str, float]:
    """One training run, in a folder that is there: steps over seconds after the warm-up, seconds of
    an iteration, where the time went, and the most memory. To be called in a fresh process.

    The shares of acting and environment are of the actors' time, where these are threads of their
    own. ``core``: with PPO and PQN, also the share of the core alone.

    warm  steps of the warm-up
    """
    run = folder / "run"
    with contextlib.redirect_stdout(io.StringIO()):  # the table at the end is what counts
        dataclasses.replace(config, run_dir=str(run)).train()
    memory = peak_memory()
    # dummy steps do not count: an iteration may end a little before its last step
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row["step"] >= 0.75 * warm]
    seconds = rows[-1]["time"] - rows[0]["time"]
    an_iteration = plan(config).updates if isinstance(config, IMPALAConfig) else 1.0
    figures = {
        "steps_per_second": (rows[-1]["step"] - rows[0]["step"]) / seconds,
        "seconds": seconds / (len(rows) - 1) * an_iteration,
        "peak_memory": float(memory),
    }
    for activity in STAGES:
        # a batch of IMPALA's that took from no new unroll knows nothing of its actors
        shares = [row[name] for row in rows[1:] if (name := f"time/{activity}") in row]
        figures[activity] = statistics.fmean(shares) if shares else 0.0
    if core and not isinstance(config, IMPALAConfig):
        figures["core"] = _core_seconds(config) / figures["seconds"]
    return figures


def _core_seconds(config: PPOConfig | PQNConfig) -> float:
    """Seconds that the core alone takes of one iteration, timed by itself at the same shapes."""
    device = choose_device(config.device)
    policy = config.build_policy()
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
