"""What a run directory holds to go on with."""

import shutil

from fwp_rl.runs.checkpoint import checkpoint_steps
from fwp_rl.runs.config import RunConfig, TrainConfig
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.results import score, task_result

__all__ = ["clear_unsaved", "has_work", "is_complete"]


def has_work(run: RunDirectory) -> bool:
    """Whether there is a run with anything to lose. There is none in one that was killed before its
    first checkpoint. A run that has lost its checkpoints and has a policy or metrics left has
    work; resuming it says what is missing."""
    logged = run.metrics.is_file() and run.metrics.stat().st_size > 0
    saved = bool(checkpoint_steps(run.checkpoints)) or run.policy.exists()
    return RunDirectory.is_run(run.path) and (saved or logged)


def clear_unsaved(run: RunDirectory) -> None:
    """Make room for a new run where one was killed before its first checkpoint. All else stays as
    it is. RunError where another process trains there."""
    if not RunDirectory.is_run(run.path):
        return
    with run.lock():
        if has_work(run):
            return
        for path in run.path.iterdir():
            if path.name.startswith(".lock"):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def is_complete(run: RunDirectory, config: RunConfig) -> bool:
    """Whether it has been trained to the end of the config, and its last checkpoint evaluated on as
    many games as that asks for; a sequence task may end before, by its own rules."""
    try:
        status = run.read_status()
    except (RuntimeError, OSError):  # damaged: resuming writes it anew
        return False
    step = status.get("step")
    if status.get("state") != "finished" or not isinstance(step, int):
        return False
    if not isinstance(config, TrainConfig):
        result = task_result(run)
        early = result is not None and result.stopped != "steps"
        return early or (result is not None and step >= config.total_steps)
    if step < config.total_steps:
        return False
    return not config.evaluation_games or score(run, games=config.evaluation_games) is not None
