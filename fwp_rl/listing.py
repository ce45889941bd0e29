"""What ``fwp-rl list`` prints.

Presets and ablations are read as the YAML that they are, and environments need no torch: a list
imports what it cannot do without.
"""

import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fwp_rl.registry import Registry, canonical
from fwp_rl.runs.yaml_files import (
    SECTIONS,
    grid_names,
    grid_path,
    preset_names,
    preset_path,
    read_yaml,
    task_names,
    task_path,
)

__all__ = ["LISTS", "ablation_rows", "preset_rows", "task_rows"]

REFERENCE_INPUT = 257
"""256 features and the last reward: the core input of the papers' Atari agents."""


def _cores() -> None:
    from fwp_rl.cores import CORES
    from fwp_rl.cores.cost import cost

    table = Table(title=f"Cores at {REFERENCE_INPUT} inputs", title_justify="left")
    table.add_column("core", no_wrap=True)
    table.add_column("what")
    for column in ("parameters", "state", "mult-adds"):
        table.add_column(column, justify="right")
    for name in sorted(_every(CORES)):
        costs = cost(CORES[name](), REFERENCE_INPUT)
        table.add_row(name, summary(CORES[name]), *(f"{number:,}" for number in costs))
    _print(
        table,
        "state: floats carried from step to step for each environment; mult-adds: multiply-adds "
        "of one step of it. Swap with core:NAME, e.g. fwp-rl train quickstart core:lstm",
    )


def _encoders() -> None:
    from fwp_rl.models import ENCODERS

    _print(_named(ENCODERS), "Swap with encoder:NAME; options are --encoder.OPTION")


def _agents() -> None:
    from fwp_rl import agents  # noqa: F401 (fills the registry of agents)
    from fwp_rl.runs.config import AGENTS

    _print(_named(AGENTS), "A preset names its agent: see fwp-rl list presets")


def _presets() -> None:
    table = Table()
    table.add_column("preset", no_wrap=True)
    for column in ("agent", "environment", "core", "encoder"):
        table.add_column(column)
    table.add_column("steps", justify="right")
    for *row, steps in preset_rows():
        table.add_row(*row, f"{steps:,}")
    _print(table, "Train one with fwp-rl train PRESET")


def preset_rows() -> Iterator[tuple[str, str, str, str, str, int]]:
    """Name, agent, environment, core, encoder and steps of each preset."""
    from fwp_rl.envs import ENVS

    for preset in preset_names():
        parts = ("env", "core", "encoder")
        fields = _stated(read_yaml(preset_path(preset)), "agent", *parts, "total_steps")
        env, core, encoder = (_section(fields[name]) for name in parts)
        spec = ENVS[env.pop("name")](**env).spec()
        names = (canonical(section["name"]) for section in (core, encoder))
        yield preset, canonical(fields["agent"]), spec.name, *names, fields["total_steps"]


def _tasks() -> None:
    table = Table()
    for column in ("task", "core"):
        table.add_column(column, no_wrap=True)
    table.add_column("what")
    table.add_column("steps", justify="right")
    for name, core, what, steps in task_rows():
        table.add_row(name, core, what, f"{steps:,}")
    _print(table, "Train a core on one with fwp-rl task NAME [core:NAME]")


def task_rows() -> Iterator[tuple[str, str, str, int]]:
    """Name, core, purpose and steps of the preset of each sequence task."""
    for name in task_names():
        path = task_path(name)
        fields = _stated(read_yaml(path), "core", "total_steps")
        yield (
            name,
            canonical(_section(fields["core"])["name"]),
            _purpose(path),
            fields["total_steps"],
        )


def _purpose(path: Path) -> str:
    """The comment in a file's first line, a sentence."""
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").removesuffix(".")


def _ablations() -> None:
    table = Table()
    table.add_column("ablation", no_wrap=True)
    table.add_column("what")
    table.add_column("cells", justify="right")
    table.add_column("steps", justify="right")
    for name, what, cells, steps in ablation_rows():
        table.add_row(name, what, f"{cells:,}", f"{steps:,}")
    _print(table, "Run one with fwp-rl ablate NAME; --dry-run shows its cells")


def ablation_rows() -> Iterator[tuple[str, str, int, int]]:
    """Name, purpose, number of cells and their steps together, of each ablation."""
    from fwp_rl.ablation.layout import lay_out

    for name in grid_names():
        path = grid_path(name)
        what = _purpose(path)
        cells = lay_out(read_yaml(path), source=str(path))
        steps = sum(_stated(cell.fields, "total_steps")["total_steps"] for cell in cells)
        yield name, what, len(cells), steps


def _stated(fields: Mapping[str, Any], *wanted: str) -> Mapping[str, Any]:
    """The fields of a training config as its YAML states them. Where that leaves one of the wanted
    to its default, the whole config, which takes torch."""
    named = all(
        isinstance(fields.get(name), str) or "name" in (fields.get(name) or {})
        for name in SECTIONS
        if name in wanted
    )
    if named and fields.keys() >= set(wanted):
        return fields
    from fwp_rl import agents
    from fwp_rl.runs.presets import config_to_dict

    return config_to_dict(agents.config_from_dict(fields, source="list"))


def _section(value: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"name": value} if isinstance(value, str) else dict(value)


def _envs() -> None:
    from fwp_rl.envs import ENVS

    _print(
        _named(ENVS),
        "Swap with env:NAME, and encoder:mlp where observations are no images; options are "
        "--env.OPTION",
    )


def _games() -> None:
    from fwp_rl.envs.atari import GAMES, AtariConfig
    from fwp_rl.envs.atari.scores import SCORES

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
    for name in _every(registry):
        table.add_row(name, summary(registry[name]))
    return table


def _every(registry: Registry[Any]) -> list[str]:
    """All names, those of plug-ins among them; what is wrong with one is told beside the list."""
    for problem in registry.load_all():
        print(f"fwp-rl: {problem}", file=sys.stderr)
    return list(registry)


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
    "tasks": _tasks,
    "ablations": _ablations,
    "agents": _agents,
}
