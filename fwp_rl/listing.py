"""What ``fwp-rl list`` prints.

Presets and ablations are read as the YAML that they are, and environments need no torch: a list
imports what it cannot do without.
"""

import json
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.padding import Padding
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
from fwp_rl.terminal import columns_that_fit, console_for

__all__ = ["LISTS", "Listing", "ablation_rows", "preset_rows", "show", "task_rows"]

REFERENCE_INPUT = 257
"""256 features and the last reward: the core input of the papers' Atari agents."""


@dataclass(frozen=True)
class Listing:
    """Things with what is known of each.

    columns   the first one names the thing
    rows      a value for each column: text, a number, or None where there is none
    hint      what the columns mean, and what to do with a name
    command   a line to copy that does it
    spare     columns that a narrow terminal goes without, the first to go first
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    hint: str
    command: str
    spare: Sequence[str] = ()


WHAT = "what"
"""The column of sentences, which may be wrapped."""
LEAST_WHAT = 22
"""Characters of its lines, at least."""


def show(listing: Listing, console: Console) -> None:
    """Print a list as a table: in a terminal one that fits, elsewhere whole and without a frame."""
    values = dict(zip(listing.columns, zip(*listing.rows, strict=True), strict=True))
    cells = {name: list(map(_cell, column)) for name, column in values.items()}
    framed, shown = console.is_terminal, list(listing.columns)
    if framed:
        shown = columns_that_fit(
            cells, console.width, spare=listing.spare, wrapped={WHAT: LEAST_WHAT}
        )
    if shown:
        table = Table() if framed else Table(box=None, pad_edge=False)
        for name in shown:
            numeric = any(isinstance(value, (int, float)) for value in values[name])
            table.add_column(name, no_wrap=name != WHAT, justify="right" if numeric else "left")
        for row in zip(*(cells[name] for name in shown), strict=True):
            table.add_row(*row)
        console.print(table)
    else:
        shown = [name for name in listing.columns if name not in listing.spare]
        for name, *facts in zip(*(cells[name] for name in shown), strict=True):
            console.print(name, soft_wrap=True)  # it is there to be copied
            for fact in filter(None, facts):
                console.print(Padding(fact, (0, 0, 0, 2)))
    if hidden := [name for name in listing.columns if name not in shown]:
        console.print(f"Not shown: {', '.join(hidden)}. A wider terminal has room, --json has all.")
    console.print(listing.hint)
    console.print(f"  {listing.command}", soft_wrap=True)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def _cores() -> Listing:
    from fwp_rl.cores import CORES
    from fwp_rl.cores.cost import cost

    return Listing(
        columns=("core", WHAT, "parameters", "state", "mult-adds"),
        rows=[
            (name, summary(CORES[name]), *cost(CORES[name](), REFERENCE_INPUT))
            for name in sorted(_every(CORES))
        ],
        hint=f"Of each core with its defaults at {REFERENCE_INPUT} inputs. state: floats carried "
        "from step to step for each environment; mult-adds: multiply-adds of one step of it. Swap "
        "the core of a preset with core:NAME:",
        command="fwp-rl train quickstart core:lstm",
        spare=("mult-adds", "state", "parameters"),
    )


def _encoders() -> Listing:
    from fwp_rl.models import ENCODERS

    return _named(
        ENCODERS,
        "Swap the encoder with encoder:NAME; options are --encoder.OPTION:",
        "fwp-rl train quickstart encoder:impala-resnet",
    )


def _agents() -> Listing:
    from fwp_rl import agents  # noqa: F401 (fills the registry of agents)
    from fwp_rl.runs.config import AGENTS

    return _named(AGENTS, "A preset names its agent:", "fwp-rl list presets")


def _presets() -> Listing:
    return Listing(
        columns=("preset", WHAT, "agent", "environment", "core", "encoder", "steps"),
        rows=[(name, _purpose(preset_path(name)), *facts) for name, *facts in preset_rows()],
        hint="Train one of them:",
        command="fwp-rl train quickstart",
        spare=("encoder", "agent", "core", "environment", "steps"),
    )


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


def _tasks() -> Listing:
    return Listing(
        columns=("task", "core", WHAT, "steps"),
        rows=list(task_rows()),
        hint="Train a core on one of them, its own or core:NAME:",
        command="fwp-rl task copy core:lstm",
        spare=("core", "steps"),
    )


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


def _ablations() -> Listing:
    return Listing(
        columns=("ablation", WHAT, "cells", "steps"),
        rows=list(ablation_rows()),
        hint="Show the cells of one, and how long they take; without --dry-run they are trained:",
        command="fwp-rl ablate cores_quick --dry-run",
        spare=("steps", "cells"),
    )


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


def _envs() -> Listing:
    from fwp_rl.envs import ENVS

    return _named(
        ENVS,
        "Swap the environment with env:NAME, and encoder:mlp where observations are no images; "
        "options are --env.OPTION:",
        "fwp-rl train recall env:classic --env.task CartPole-v1",
    )


def _games() -> Listing:
    from fwp_rl.envs.atari import GAMES, AtariConfig
    from fwp_rl.envs.atari.scores import SCORES

    return Listing(
        columns=("game", "actions", "all actions", "random", "human"),
        rows=[
            (
                game,
                *(
                    AtariConfig(game=game, protocol=protocol).spec().num_actions
                    for protocol in ("classic", "machado")
                ),
                *SCORES.get(game, (None, None)),
            )
            for game in GAMES
        ],
        hint=f"{len(GAMES)} Atari games, {len(SCORES)} with the scores of a random player and of a "
        "human. actions: the game's own (protocol classic); all actions: machado. Play one:",
        command="fwp-rl train ppo_atari --env.game Pong",
        spare=("all actions", "actions", "random", "human"),
    )


def summary(cls: type) -> str:
    """First line of a class's docstring, without its full stop."""
    return (cls.__doc__ or "").strip().splitlines()[0].removesuffix(".")


def _every(registry: Registry[Any]) -> list[str]:
    """All names, those of plug-ins among them; what is wrong with one is told beside the list."""
    for problem in registry.load_all():
        print(f"fwp-rl: {problem}", file=sys.stderr)
    return list(registry)


def _named(registry: Registry[Any], hint: str, command: str) -> Listing:
    rows = [(name, summary(registry[name])) for name in _every(registry)]
    return Listing(columns=(registry.kind, WHAT), rows=rows, hint=hint, command=command)


class _List(Protocol):
    def __call__(self, *, as_json: bool = False) -> None: ...


def _printed(make: Callable[[], Listing]) -> _List:
    def run(*, as_json: bool = False) -> None:
        listing = make()
        if not as_json:
            show(listing, console_for())
            return
        keys = [column.replace(" ", "_") for column in listing.columns]
        things = [dict(zip(keys, row, strict=True)) for row in listing.rows]
        print(json.dumps(things, indent=1, allow_nan=False))

    return run


LISTS: typing.Final[dict[str, _List]] = {
    name: _printed(make)
    for name, make in {
        "cores": _cores,
        "encoders": _encoders,
        "envs": _envs,
        "games": _games,
        "presets": _presets,
        "tasks": _tasks,
        "ablations": _ablations,
        "agents": _agents,
    }.items()
}
