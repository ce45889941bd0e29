"""The evaluations of a run, and which of them is its score."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.files import parse_json
from fwp_rl.runs.policy import saved_step

__all__ = ["Score", "paper_evaluation", "score"]


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
    # the policy folder holds the last checkpoint's weights, and is what is evaluated as "last"; a
    # folder that somebody has thinned out still has its status
    step = saved_step(run.policy)
    if step is None:
        step = run.read_status().get("step")
    found = []
    for result in _evaluations(run):
        protocol = result["protocol"]
        if (
            result.get("step") == step
            and protocol.get("checkpoint") != "best"
            and protocol.get("actions") == "sampled"
            and protocol.get("games", 0) >= max(games, 1)
        ):
            found.append(result)
    if step is None or not found:
        return None
    chosen = max(found, key=lambda r: (r["protocol"]["games"], str(r.get("created"))))
    return Score(
        mean=float(chosen["summary"]["mean"]),
        games=int(chosen["protocol"]["games"]),
        step=int(step),
        result=chosen,
    )


def paper_evaluation(run: RunDirectory) -> Mapping[str, Any] | None:
    """The newest evaluation, of the furthest step, of single lives as the papers' code counts."""
    found = [e for e in _evaluations(run) if e["protocol"].get("name") == "paper"]
    return max(found, key=lambda r: (r.get("step") or 0, str(r.get("created"))), default=None)


def _evaluations(run: RunDirectory) -> Iterator[dict[str, Any]]:
    """Those that can be read, in the order of their names."""
    for file in sorted(run.evaluations.glob("*.json")):
        try:
            result = parse_json(file.read_bytes(), file)
            if isinstance(result["protocol"], dict) and "mean" in result["summary"]:
                yield result
        except (OSError, RuntimeError, KeyError, TypeError):
            continue  # the others count
