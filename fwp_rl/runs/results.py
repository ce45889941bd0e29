"""The evaluations of a run, and which of them is its score."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.files import CheckpointError, read_json
from fwp_rl.runs.policy import saved_step
from fwp_rl.runs.schema import Evaluation, TaskResult, checked

__all__ = ["Score", "paper_evaluation", "score", "task_result"]

MOST_BYTES = 1 << 24
"""Of an evaluation: 100,000 games take a third."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How good a run's last policy is, or what a sequence task came to."""

    mean: float
    """Mean return, or the task's measure."""
    games: int | None
    """Whole games that it is the mean of; None of a sequence task, whose test split is whole."""
    step: int
    """Of the checkpoint that was evaluated: the run's last, or a sequence task's best."""
    result: Mapping[str, Any]
    """The evaluation as ``fwp_rl.evaluation.evaluate`` wrote it, or the task's ``result.json``."""


def score(run: RunDirectory, *, games: int = 0) -> Score | None:
    """A run's score; None where its last checkpoint was not evaluated.

    Of the evaluations of the last checkpoint by the policy's own action rule and of at least
    ``games`` whole games: the one of most games, then the newest. Never the best of several, and
    never an earlier checkpoint's. Of a sequence task: the measure on its test split.
    """
    if run.result.is_file():
        of_task = task_result(run)
        if of_task is None or of_task.score is None:
            return None
        about = of_task.model_dump(by_alias=True)
        return Score(mean=of_task.score, games=None, step=of_task.step, result=about)
    found = [
        (known, result)
        for known, result in _of_the_last_checkpoint(run)
        if known.protocol.actions == known.protocol.policy_actions
        and (known.protocol.games or 0) >= max(games, 1)
    ]
    if not found:
        return None
    known, result = max(found, key=lambda pair: (pair[0].protocol.games, pair[0].created or ""))
    assert known.protocol.games is not None
    assert known.step is not None
    return Score(
        mean=known.summary.mean, games=known.protocol.games, step=known.step, result=result
    )


def task_result(run: RunDirectory) -> TaskResult | None:
    """What a run on a sequence task came to; None where it has not ended, or tells nothing that can
    be read."""
    try:
        return checked(TaskResult, read_json(run.result), run.result)
    except (OSError, CheckpointError):
        return None


def paper_evaluation(run: RunDirectory) -> Mapping[str, Any] | None:
    """The newest evaluation of a run's last checkpoint by single lives, as the papers' code counts;
    None where there is none."""
    found = [
        (known.created or "", result)
        for known, result in _of_the_last_checkpoint(run)
        if known.protocol.name == "paper" and known.summary.std_of_run_means is not None
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _of_the_last_checkpoint(run: RunDirectory) -> Iterator[tuple[Evaluation, dict[str, Any]]]:
    # the policy folder holds the last checkpoint's weights, and is what is evaluated as "last"; a
    # folder that somebody has thinned out still has its status
    step = saved_step(run.policy)
    if step is None:
        step = _step_of_status(run)
    for known, result in _evaluations(run):
        if step is not None and known.step == step and known.protocol.checkpoint != "best":
            yield known, result


def _step_of_status(run: RunDirectory) -> int | None:
    try:
        step = run.read_status().get("step")
    except (OSError, CheckpointError):
        return None
    return step if type(step) is int else None


def _evaluations(run: RunDirectory) -> Iterator[tuple[Evaluation, dict[str, Any]]]:
    """Those that can be read and have a mean, in the order of their names."""
    for file in sorted(run.evaluations.glob("*.json")):
        try:
            result = read_json(file, most=MOST_BYTES)
            yield checked(Evaluation, result, file), result
        except (OSError, CheckpointError):
            continue  # the others count
