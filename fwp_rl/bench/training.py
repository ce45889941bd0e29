"""``fwp-rl bench training``: whole training runs, beside their floor and beside other processes.

All that is compared takes turns within a round, and every ratio is taken within a round: the
machine's clock and company change from minute to minute.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from fwp_rl.agents.impala import IMPALAConfig
from fwp_rl.bench.beside import products_per_second
from fwp_rl.bench.figures import figures, stages
from fwp_rl.bench.floor import measure_parts
from fwp_rl.bench.processes import busy, fresh
from fwp_rl.bench.runs import LEAST_STEPS, WARM_UP, AgentConfig, Task, measure, plan, task_config
from fwp_rl.bench.sheets import training_sheets
from fwp_rl.evaluation.results import check_writable
from fwp_rl.machine import choose_device, facts, set_gpu_arithmetic
from fwp_rl.models.policy import has_bfloat16
from fwp_rl.reports.plots import new_figure
from fwp_rl.reports.stages import draw_stages
from fwp_rl.runs.files import write_file, write_json

__all__ = ["Extent", "bench_training", "circumstances", "measured"]


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is measured of each run."""

    iterations: int
    least_steps: int = LEAST_STEPS
    control_seconds: float = 3.0


def bench_training(
    cores: Sequence[str],
    task: Task,
    extent: Extent,
    *,
    rounds: int,
    against_floor: bool = False,
    beside: int = 0,
    output: Path | None = None,
    figure: Path | None = None,
) -> None:
    """Measure, print and write, as ``commands.training`` says."""
    configs = {
        name: task_config(task, name, iterations=extent.iterations, least=extent.least_steps)
        for name in cores
    }
    check_outputs(output, figure)
    console = Console()
    result: dict[str, Any] = {
        "benchmark": "training",
        **circumstances(task, next(iter(configs.values()))),
        "iterations": extent.iterations,
        "beside_processes": beside,
        "runs": {name: [] for name in configs},
    }
    if against_floor:
        result["floor"] = {name: [] for name in configs}
    if beside:
        result["beside"] = {name: [] for name in configs}
        result["control"] = {"alone": [], "beside": []}

    def say(text: str) -> None:
        console.print(f"round {round_ + 1} of {rounds}: {text}", highlight=False)

    for round_ in range(rounds):
        _round(result, configs, extent, say)
        result |= {"rounds": round_ + 1, "figures": figures(result)}
        if output is not None:  # after every round: a run that is cut short keeps what it has
            write_json(output, result)
    for sheet in training_sheets(result):
        console.print(sheet.table())
    if figure is not None:
        title = f"An iteration of {result['agent']}, {result['encoder']}, {result['game']}"
        write_file(figure, draw_stages(stages(result), title=title, label="seconds"))


def _round(
    result: dict[str, Any],
    configs: dict[str, AgentConfig],
    extent: Extent,
    say: Callable[[str], None],
) -> None:
    """Everything once, each measurement in a fresh process."""
    for name, config in configs.items():
        run = measured(config, extent.least_steps, core=True)
        result["runs"][name].append(run)
        say(f"{name} {run['steps_per_second']:.0f} steps/s")
        if "floor" in result:
            parts = fresh(measure_parts, config)
            result["floor"][name].append(parts)
            floor = sum(min(splits.values()) for splits in parts.values())
            say(f"{name} {run['seconds']:.3f} s an iteration, floor {floor:.3f} s")
    if "beside" not in result:
        return
    control = partial(fresh, products_per_second, extent.control_seconds)
    result["control"]["alone"].append(control())
    with busy(result["beside_processes"]) as processes:
        say(f"beside {len(processes)} busy: {', '.join(map(str, processes))}")
        for name, config in configs.items():
            run = measured(config, extent.least_steps, core=False)
            result["beside"][name].append(run)
            say(f"{name} {run['steps_per_second']:.0f} steps/s beside them")
        result["control"]["beside"].append(control())


def measured(
    config: AgentConfig, least_steps: int, *, core: bool, warm_up: int = WARM_UP
) -> dict[str, float]:
    """What a training run shows, in a process of its own. Raises MeasurementError."""
    one = plan(config)
    warm = warm_up * max(one.num_envs * one.steps, least_steps)
    with tempfile.TemporaryDirectory() as folder:
        return fresh(measure, config, Path(folder), warm, core)


def check_outputs(output: Path | None, figure: Path | None = None) -> None:
    """Before anything is measured: OSError where a file cannot be written, ImportError where there
    is nothing to draw with."""
    for file in (output, figure):
        if file is not None:
            check_writable(file)
    if figure is not None:
        new_figure((1, 1))


def circumstances(task: Task, config: AgentConfig) -> dict[str, Any]:
    """What was measured, where and when."""
    device = choose_device(config.device)
    set_gpu_arithmetic(config.matmul_precision)  # as in the runs' processes
    one = plan(config)
    return {
        **asdict(task),
        "num_envs": one.num_envs,
        "unroll": one.steps,
        "passes": one.passes,
        "actors": config.actors.count if isinstance(config, IMPALAConfig) else 0,
        **facts(device),
        "bfloat16": task.precision != "float32" and has_bfloat16(device),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
