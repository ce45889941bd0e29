"""What ``fwp-rl list`` prints."""

import typing
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from fwp_rl import agents
from fwp_rl.ablation.grid import grid_names, load_grid
from fwp_rl.cores import CORES
from fwp_rl.cores.cost import cost
from fwp_rl.envs import ENVS
from fwp_rl.envs.atari import GAMES, AtariConfig
from fwp_rl.envs.atari.scores import SCORES
from fwp_rl.models.base import ENCODERS
from fwp_rl.registry import Registry
from fwp_rl.runs.config import AGENTS
from fwp_rl.runs.presets import preset_names

__all__ = ["LISTS"]

REFERENCE_INPUT = 257
"""256 features and the last reward: the core input of the papers' Atari agents."""


def _cores() -> None:
    table = Table(title=f"Cores at {REFERENCE_INPUT} inputs", title_justify="left")
    table.add_column("core", no_wrap=True)
    table.add_column("what")
    for column in ("parameters", "state", "mult-adds"):
        table.add_column(column, justify="right")
    for name in sorted(CORES):
        costs = cost(CORES[name](), REFERENCE_INPUT)
        table.add_row(name, summary(CORES[name]), *(f"{number:,}" for number in costs))
    _print(
        table,
        "state: floats carried from step to step for each environment; mult-adds: multiply-adds "
        "of one step of it. Swap with core:NAME, e.g. fwp-rl train quickstart core:lstm",
    )


def _encoders() -> None:
    _print(_named(ENCODERS), "Swap with encoder:NAME; options are --encoder.OPTION")


def _agents() -> None:
    _print(_named(AGENTS), "A preset names its agent: see fwp-rl list presets")


def _presets() -> None:
    table = Table()
    table.add_column("preset", no_wrap=True)
    for column in ("agent", "environment", "core", "encoder"):
        table.add_column(column)
    table.add_column("steps", justify="right")
    for name in preset_names():
        config = agents.load_preset(name)
        table.add_row(
            name,
            AGENTS.name_of(type(config)),
            config.env.spec().name,
            CORES.name_of(type(config.core)),
            ENCODERS.name_of(type(config.encoder)),
            f"{config.total_steps:,}",
        )
    _print(table, "Train one with fwp-rl train PRESET")


def _ablations() -> None:
    table = Table()
    table.add_column("ablation", no_wrap=True)
    table.add_column("what")
    table.add_column("cells", justify="right")
    table.add_column("steps", justify="right")
    for name in grid_names():
        grid = load_grid(name)
        steps = sum(cell.config.total_steps for cell in grid.cells)
        first_line = grid.source.read_text(encoding="utf-8").partition("\n")[0]
        table.add_row(
            name, first_line.lstrip("# ").removesuffix("."), f"{len(grid.cells):,}", f"{steps:,}"
        )
    _print(table, "Run one with fwp-rl ablate NAME; --dry-run shows its cells")


def _envs() -> None:
    _print(
        _named(ENVS),
        "Swap with env:NAME, and encoder:mlp where observations are no images; options are "
        "--env.OPTION",
    )


def _games() -> None:
    table = Table("game")
    for column in ("actions", "all actions", "random", "human"):
        table.add_column(column, justify="right")
    for game in GAMES:
        counts = [
            AtariConfig(game=game, protocol=protocol).spec().num_actions
            for protocol in ("classic", "machado")
        ]
        scores = SCORES.get(game)
        random, human = ("", "") if scores is None else (f"{s:,}" for s in scores)
        table.add_row(game, *map(str, counts), random, human)
    _print(
        table,
        f"{len(GAMES)} Atari games, {len(SCORES)} with the scores of a random player and of a "
        "human. actions: the game's own (protocol classic); all actions: machado. Play one with "
        "--env.game NAME",
    )


def summary(cls: type) -> str:
    """First line of a class's docstring, without its full stop."""
    return (cls.__doc__ or "").strip().splitlines()[0].removesuffix(".")


def _named(registry: Registry[Any]) -> Table:
    table = Table(registry.kind, "what")
    for name in registry:
        table.add_row(name, summary(registry[name]))
    return table


def _print(table: Table, hint: str) -> None:
    console = Console()
    console.print(table)
    console.print(hint, highlight=False)


LISTS: typing.Final[dict[str, Callable[[], None]]] = {
    "cores": _cores,
    "encoders": _encoders,
    "envs": _envs,
    "games": _games,
    "presets": _presets,
    "ablations": _ablations,
    "agents": _agents,
}
