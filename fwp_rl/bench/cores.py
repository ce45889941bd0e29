"""``fwp-rl bench cores``: every core beside its own products and ops.

A core's module is timed forward and backward over an unroll, and on one step without gradients as
in acting; beside it its matrix products and ops alone (``bare``), on arguments that lie ready. What
is left of the ratio is norms, feature maps, gates, copies and calls.
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fwp_rl.bench.bare import core_calls, core_inputs, gradients, leaves, replay
from fwp_rl.bench.contenders import seconds_of
from fwp_rl.bench.estimates import median
from fwp_rl.bench.sheets import cores_sheets
from fwp_rl.bench.training import check_outputs
from fwp_rl.config import ConfigError
from fwp_rl.cores import CORES, Core, build_core
from fwp_rl.machine import facts, keep_freed_memory
from fwp_rl.runs.files import write_json

__all__ = ["Sizes", "bench_cores"]

INPUT = 513
"""The features of nature_cnn and the last reward."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the cores are timed at."""

    steps: int
    """T of an unroll."""
    columns: int
    """B of an unroll: environments of a minibatch."""
    acting_columns: int
    """B of an acting step."""
    hidden_size: int | None
    """None: each core's default."""


def bench_cores(
    names: Sequence[str],
    sizes: Sizes,
    *,
    seconds: float,
    rounds: int,
    output: Path | None = None,
) -> None:
    """Measure, print and write, as ``commands.cores`` says."""
    cores = {name: _build(name, sizes.hidden_size) for name in names}
    check_outputs(output)
    keep_freed_memory()  # as training does
    console = Console()
    result: dict[str, Any] = {
        "benchmark": "cores",
        **dataclasses.asdict(sizes),
        "input_size": INPUT,
        "rounds": rounds,
        **facts(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": {},
    }
    for name, core in cores.items():
        found = {
            "learning": _compare(_learning(core, sizes), seconds, rounds),
            "acting": _compare(_acting(core, sizes), seconds, rounds),
        }
        result["cores"][name] = found
        ratios = ", ".join(f"{what} {1000 * case['module']:.3f} ms" for what, case in found.items())
        console.print(f"{name}: {ratios}", highlight=False)
        if output is not None:  # after every core: a run that is cut short keeps what it has
            write_json(output, result)
    for sheet in cores_sheets(result):
        console.print(sheet.table())


def _build(name: str, hidden_size: int | None) -> Core:
    config = CORES[name]()
    if hidden_size is not None and hasattr(config, "hidden_size"):
        try:
            config = dataclasses.replace(config, hidden_size=hidden_size)  # type: ignore[call-arg]
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
    return build_core(config, INPUT)


Contenders = dict[str, Callable[[], object]]


def _learning(core: Core, sizes: Sizes) -> Contenders:
    inputs = core_inputs(core, sizes.steps, sizes.columns)
    parameters = list(core.parameters())
    wanted = [inputs[0], *parameters]
    found: Contenders = {"module": lambda: gradients([core(*inputs)[0]], wanted)}
    if calls := core_calls(core, sizes.steps, sizes.columns, learning=True):
        own = leaves(calls, parameters)
        found["bare"] = lambda: gradients(replay(calls), own)
    return found


def _acting(core: Core, sizes: Sizes) -> Contenders:
    x, state, reset = core_inputs(core, 1, sizes.acting_columns)
    x = x.detach()
    found: Contenders = {"module": torch.no_grad()(lambda: core(x, state, reset))}
    if calls := core_calls(core, 1, sizes.acting_columns, learning=False):
        found["bare"] = torch.no_grad()(lambda: replay(calls))
    return found


def _compare(runs: Contenders, seconds: float, rounds: int) -> dict[str, Any]:
    """Seconds of a call in each round, in which the contenders run for as long; their medians, and
    how many times as long the module takes."""
    repeats = {}
    for name, run in runs.items():
        run()  # compiles
        repeats[name] = max(1, int(seconds / seconds_of(run, 1)))
    times = [
        {name: seconds_of(run, repeats[name]) for name, run in runs.items()} for _ in range(rounds)
    ]
    found: dict[str, Any] = {
        name: statistics.median(round_[name] for round_ in times) for name in runs
    }
    if "bare" in runs:
        ratios = [round_["module"] / round_["bare"] for round_ in times]
        found["ratio"] = dataclasses.asdict(median(ratios))
    return found | {"rounds": times}
