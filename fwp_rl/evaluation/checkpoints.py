"""Which weights of a run are evaluated or filmed."""

from pathlib import Path
from typing import Literal, TypeAlias

from fwp_rl.config import ConfigError
from fwp_rl.runs.checkpoint import CheckpointError, best, checkpoint_path, checkpoint_steps
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.policy import SavedPolicy, load_saved

__all__ = ["Which", "checkpoint_label", "holding_run", "open_policy", "run_of"]

Which: TypeAlias = Literal["last", "best"] | int
"""The last policy, the checkpoint with the best score, or that of so many environment steps."""


def open_policy(path: str | Path, checkpoint: Which) -> SavedPolicy:
    """The saved policy of a run (its last, its best, that of a step), a policy folder or a
    checkpoint. CheckpointError where it is not kept, ConfigError where the path is in no run."""
    if checkpoint == "last":
        return load_saved(path)
    checkpoints = holding_run(path, checkpoint).checkpoints
    if checkpoint == "best":
        return load_saved(best(checkpoints))
    kept = checkpoint_steps(checkpoints)
    if checkpoint not in kept:
        raise CheckpointError(
            f"{checkpoints}: has no checkpoint of step {checkpoint:,}; kept are "
            f"{', '.join(f'{step:,}' for step in kept) or 'none'}"
        )
    return load_saved(checkpoint_path(checkpoints, checkpoint))


def holding_run(path: str | Path, checkpoint: Which | Literal["all"]) -> RunDirectory:
    """The run that a path lies in, or a ConfigError.

    checkpoint  what is asked of it, for the error
    """
    run = run_of(Path(path))
    if run is None:
        raise ConfigError(
            f"checkpoint: got {checkpoint!r}, but {path} is not in a run directory: only runs have "
            "checkpoints"
        )
    return RunDirectory(run)


def run_of(path: Path) -> Path | None:
    """The run directory that a policy or checkpoint folder lies in, if any; relative to the
    current folder where it lies below."""
    here, path = Path.cwd(), path.absolute()
    holders = [path]
    if path.name == "policy":
        holders.append(path.parent)
    if path.parent.name == "checkpoints":
        holders.append(path.parent.parent)
    run = next((holder for holder in holders if RunDirectory.is_run(holder)), None)
    return run.relative_to(here) if run is not None and run.is_relative_to(here) else run


def checkpoint_label(saved: SavedPolicy, checkpoint: Which) -> str:
    """What to call the weights that were evaluated: last, best or the checkpoint's own name."""
    if checkpoint == "best":
        return "best"
    return "last" if saved.path.name == "policy" else saved.path.name
