"""Going on with a run: which checkpoint, and whether it is this run's at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from fwp_rl.runs.checkpoint import Checkpoint, newest_good
from fwp_rl.runs.config import RunConfig
from fwp_rl.runs.crashes import crash_trace
from fwp_rl.runs.directory import RunDirectory, RunError
from fwp_rl.runs.files import CheckpointError
from fwp_rl.runs.keeping import STATE
from fwp_rl.runs.presets import bookkeeping, config_from_dict, first_change, load_preset
from fwp_rl.runs.schema import Strict, checked
from fwp_rl.runs.tracked import Stateful

__all__ = ["RESUME_MAY_CHANGE", "Count", "Restored", "SessionState", "restore"]

RESUME_MAY_CHANGE = ("total_steps",)
"""What a resumed run may set anew beside the fields that are bookkeeping."""


Count = Annotated[int, Field(ge=0)]


class SessionState(Strict):
    """What every session keeps in a checkpoint beside weights and random streams."""

    milestone: Count | None = None
    """Step of the last checkpoint that is kept for ever."""
    sessions: Annotated[int, Field(ge=1)] = 1
    """How often the run had been started or resumed."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a run goes on from."""

    checkpoint: Checkpoint
    state: SessionState
    identity: Mapping[str, Any] | None
    """Of the run, by its status; None where that tells nothing."""
    notes: list[str]
    """What the user is to know."""


def restore(
    run: RunDirectory,
    config: RunConfig,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    generators: Mapping[str, torch.Generator],
    tracked: Mapping[str, Stateful],
    *,
    schema: type[SessionState],
) -> Restored:
    """Take everything over from the newest good checkpoint, whose state is of that ``schema``.

    RunError, before anything is changed, where the config asks for another experiment than the
    run's, where config.yaml and checkpoint do not belong together, or where there is none.
    """
    before = load_preset(str(run.config))
    _refuse_changes(run, before, config)
    notes: list[str] = []

    def check(checkpoint: Checkpoint) -> None:
        """One that could not be gone on from is a damaged one, and an older one is tried."""
        _state(checkpoint, schema)
        checkpoint.check(network, optimizer, generators, tracked)

    checkpoint = newest_good(
        run.checkpoints, warn=lambda text: notes.append(f"WARNING: {text}"), check=check
    )
    if checkpoint is None:
        raise RunError(
            f"{run.path}: holds no checkpoint to resume from. Its policy/, if it has one, can be "
            "evaluated; to train, start a new run in another --run-dir"
        )
    identity = _identity(run, notes)
    _refuse_strangers(run, before, checkpoint, identity, notes)
    checkpoint.restore(network, optimizer, generators, tracked)
    if (trace := crash_trace(run.path)) is not None:
        notes.append(f"WARNING: an earlier session crashed; {trace} says where")
    notes.append(f"Resumed at step {checkpoint.step:,} from {checkpoint.path}")
    if config.total_steps != before.total_steps:
        notes.append(
            f"total_steps is now {config.total_steps:,} (was {before.total_steps:,}): an "
            "annealed learning rate goes on along the line that ends there"
        )
    if checkpoint.step >= config.total_steps:
        notes.append(
            f"The run is complete at {config.total_steps:,} steps; extend it with a "
            "larger --total-steps"
        )
    return Restored(
        checkpoint=checkpoint, state=_state(checkpoint, schema), identity=identity, notes=notes
    )


def _state(checkpoint: Checkpoint, schema: type[SessionState]) -> SessionState:
    return checked(schema, checkpoint.state, checkpoint.path / STATE)


def _identity(run: RunDirectory, notes: list[str]) -> Mapping[str, Any] | None:
    """Who the run is by its status."""
    try:
        known = run.read_status().get("run")
    except CheckpointError as error:
        notes.append(f"WARNING: {error}; it is written anew")
        return None
    return known if isinstance(known, dict) and isinstance(known.get("id"), str) else None


def _refuse_strangers(
    run: RunDirectory,
    before: RunConfig,
    checkpoint: Checkpoint,
    identity: Mapping[str, Any] | None,
    notes: list[str],
) -> None:
    """RunError where the checkpoint is of another run, or trained by another config."""
    if checkpoint.run_id is None or checkpoint.config is None:
        notes.append(
            "This checkpoint was made before checkpoints named their run: that it belongs to "
            f"{run.config} cannot be checked"
        )
        return
    if identity is not None and identity["id"] != checkpoint.run_id:
        raise RunError(
            f"{checkpoint.path}: is of run {checkpoint.run_id}, {run.status} is of run "
            f"{identity['id']}: put the checkpoints back where they belong"
        )
    trained = config_from_dict(checkpoint.config, source=f"{checkpoint.path}: config")
    changed = first_change(trained, before, without=RESUME_MAY_CHANGE)
    if changed is not None:
        name, was, now = changed
        raise RunError(
            f"{run.config}: says {name} = {now!r}, {checkpoint.path} was trained with {was!r}: one "
            "of the two was edited or is another run's. Put it back, or start a new run"
        )


def _refuse_changes(run: RunDirectory, before: RunConfig, config: RunConfig) -> None:
    asked = config.run_dir
    if asked is not None and asked not in (before.run_dir, str(run.path)):
        raise RunError(
            f"{run.path}: a resumed run goes on in its own directory; leave --run-dir out"
        )
    changed = first_change(before, config, without=RESUME_MAY_CHANGE)
    if changed is not None:
        name, was, asked_for = changed
        allowed = sorted({*RESUME_MAY_CHANGE, *bookkeeping(config)} - {"run_dir"})
        raise RunError(
            f"{run.path}: was trained with {name} = {was!r}, asked for is {asked_for!r}. A "
            f"resumed run may change {', '.join(allowed)}; start a new run for anything else"
        )
