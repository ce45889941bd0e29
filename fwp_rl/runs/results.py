"""The evaluations of a run, and which of them is its score."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.files import parse_json
from fwp_rl.runs.policy import saved_step

__all__ = ["Score", "is_number", "paper_evaluation", "score"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How good a run's last policy is."""

    mean: float
    """Mean return."""
    games: int
    """Whole games that it is the mean of."""
    step: int
    """Of the checkpoint that played them, the run's last."""
    result: Mapping[str, Any]
    """The evaluation as ``fwp_rl.evaluation.evaluate`` wrote it."""


def score(run: RunDirectory, *, games: int = 0) -> Score | None:
    """A run's score; None where its last checkpoint was not evaluated.

    Of the evaluations of the last checkpoint with sampled actions and at least ``games`` whole
    games: the one of most games, then the newest. Never the best of several, and never an earlier
    checkpoint's.
    """
    found = [
        result
        for result in _of_the_last_checkpoint(run)
        if result["protocol"].get("actions") == "sampled"
        and type(result["protocol"].get("games")) is int
        and result["protocol"]["games"] >= max(games, 1)
    ]
    if not found:
        return None
    chosen = max(found, key=lambda r: (r["protocol"]["games"], str(r.get("created"))))
    return Score(
        mean=float(chosen["summary"]["mean"]),
        games=chosen["protocol"]["games"],
        step=int(chosen["step"]),
        result=chosen,
    )


def paper_evaluation(run: RunDirectory) -> Mapping[str, Any] | None:
    """The newest evaluation of a run's last checkpoint by single lives, as the papers' code counts;
    None where there is none."""
    found = [
        result
        for result in _of_the_last_checkpoint(run)
        if result["protocol"].get("name") == "paper"
        and is_number(result["summary"].get("std_of_run_means"))
    ]
    return max(found, key=lambda r: str(r.get("created")), default=None)


def _of_the_last_checkpoint(run: RunDirectory) -> Iterator[dict[str, Any]]:
    # the policy folder holds the last checkpoint's weights, and is what is evaluated as "last"; a
    # folder that somebody has thinned out still has its status
    step = saved_step(run.policy)
    if step is None:
        step = run.read_status().get("step")
    for result in _evaluations(run):
        of_the_last = step is not None and result.get("step") == step
        if of_the_last and result["protocol"].get("checkpoint") != "best":
            yield result


def _evaluations(run: RunDirectory) -> Iterator[dict[str, Any]]:
    """Those that can be read and have a mean, in the order of their names."""
    for file in sorted(run.evaluations.glob("*.json")):
        if not file.is_file():  # to read a pipe would take for ever
            continue
        try:
            result = parse_json(file.read_bytes(), file)
        except (OSError, RuntimeError):
            continue  # the others count
        protocol, summary = result.get("protocol"), result.get("summary")
        if (
            isinstance(protocol, dict)
            and isinstance(summary, dict)
            and is_number(summary.get("mean"))
        ):
            yield result


def is_number(value: Any) -> bool:
    """Whether what a file holds is a number to calculate with."""
    return type(value) in (int, float) and abs(value) < 1e300  # no NaN, and a float can hold it
