"""The cells of a grid, each with its config checked. ``layout.py`` says what a grid is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fwp_rl.ablation.layout import lay_out
from fwp_rl.config import ConfigError
from fwp_rl.registry import shown
from fwp_rl.runs.config import RunConfig, TrainConfig
from fwp_rl.runs.presets import config_from_dict
from fwp_rl.runs.yaml_files import grid_path, read_yaml

__all__ = ["Cell", "Grid", "expand", "load_grid"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run of a grid."""

    name: str
    """Of its run directory: the labels, joined."""
    labels: Mapping[str, str]
    """Axis → label of its value."""
    config: RunConfig


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid as its file has it, and its cells, each of them checked."""

    name: str
    source: Path
    cells: tuple[Cell, ...]


def load_grid(name_or_path: str | Path) -> Grid:
    """A grid by its name, or any YAML file by its path, with the config of every cell checked.

    ConfigError for whatever is wrong in it: names the file, the cell and the field.
    """
    path = grid_path(name_or_path)
    cells = expand(read_yaml(path), source=str(path))
    _check_policies(cells, str(path))
    return Grid(name=path.stem, source=path, cells=cells)


def expand(data: Mapping[str, Any], *, source: str) -> tuple[Cell, ...]:
    """The cells of a grid from plain data, each with a valid config."""
    return tuple(
        Cell(
            name=cell.name,
            labels=cell.labels,
            config=config_from_dict(cell.fields, source=f"{source}: cell {cell.name}"),
        )
        for cell in lay_out(data, source=source)
    )


def _check_policies(cells: tuple[Cell, ...], source: str) -> None:
    """Build each kind of network once: an encoder that cannot read its task is told now."""
    known = set()
    for cell in cells:
        config = cell.config
        if not isinstance(config, TrainConfig):  # a task's network needs its data
            continue
        spec = config.env.spec()
        shape = (spec.observation_shape, spec.num_actions)
        network = (type(config), repr(config.core), repr(config.encoder), shape)
        if network in known:
            continue
        known.add(network)
        try:
            with torch.device("meta"):  # shapes without memory
                config.build_policy()
        except ConfigError as error:
            raise ConfigError(f"{source}: cell {cell.name}: {error}") from None
        except (RuntimeError, TypeError, OverflowError) as error:  # sizes that are beyond torch
            raise ConfigError(
                f"{source}: cell {cell.name}: its network cannot be built: {shown(str(error))}"
            ) from None
