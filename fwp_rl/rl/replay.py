"""Running a policy over stored rollouts, as learners do."""

import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fwp_rl.cores import recording
from fwp_rl.models.policy import Policy
from fwp_rl.types import PolicyOutput, Rollout

__all__ = [
    "check_ratio",
    "check_replay",
    "copy_columns",
    "core_metrics",
    "minibatches",
    "replay",
    "select_columns",
]

EXACT, ROUGH = 1e-3, 0.1
"""Bounds on a relative difference, such as |ratio - 1|, between acting and learning with the same
weights: in float32 on a CPU, and in bfloat16 or on a GPU, whose libraries choose other algorithms
for other sizes."""


def select_columns(rollout: Rollout, columns: Tensor | slice) -> Rollout:
    """The rollout of some environment columns: whole sequences, with their own initial state.

    columns  int64 indices into B, or a slice of it, which gives views of the rollout
    """
    return rollout.map(lambda x: x[:, columns], state=lambda leaf: leaf[columns])


def copy_columns(source: Rollout, columns: slice, target: Rollout, into: slice) -> None:
    """Copy environment columns of one rollout over columns of another, of the same length."""
    places, copied = select_columns(target, into), select_columns(source, columns)
    for place, tensor in zip(places.tensors(), copied.tensors(), strict=True):
        place.copy_(tensor, non_blocking=True)


def minibatches(
    columns: int, count: int, generator: torch.Generator, device: torch.device
) -> Iterator[Tensor]:
    """Environment columns, int64 indices on the device, shuffled and cut into ``count`` parts of
    the same size."""
    order = torch.randperm(columns, generator=generator).to(device)
    yield from order.split(columns // count)


def replay(policy: Policy, rollout: Rollout, *, start: int, stop: int) -> PolicyOutput:
    """The policy on steps ``start`` to ``stop`` of a rollout, from its stored initial state.

    The steps before ``start`` are burn-in: they bring the state up to date with the present
    weights and get no gradient (Kapturowski et al. 2019).
    """
    state = rollout.initial_state
    if start:
        with torch.no_grad(), recording():  # what cores report of these steps is dropped
            state = policy(rollout.observation.map(lambda x: x[:start]), state).state
    output: PolicyOutput = policy(rollout.observation.map(lambda x: x[start:stop]), state)
    return output


def check_ratio(
    deviation: float, policy: Policy, warn: Callable[[str], object] = warnings.warn
) -> None:
    """``check_replay`` of actions' probabilities: ``deviation`` is the largest |ratio - 1|."""
    check_replay("policy/ratio_deviation", deviation, policy, warn)


def check_replay(
    metric: str,
    deviation: float,
    policy: Policy,
    warn: Callable[[str], object] = warnings.warn,
) -> None:
    """Warn where acting and learning are not the same computation.

    metric     how the deviation is logged
    deviation  largest relative difference over steps that were played by the very weights they were
               replayed with
    warn       is told a text that does not change, so that it can be said once
    """
    if getattr(policy.config.core, "redraw_projection", False):
        return  # the core computes something else in each call by design
    device = policy.device
    exact = device.type == "cpu" and not policy.uses_bfloat16(device)
    bound = EXACT if exact else ROUGH
    if not deviation <= bound:
        warn(
            "the learner computes other answers to what was played than the actor had, with the "
            f"same weights: {metric} is above {bound:g}, which rounding does not explain. "
            "Usually an environment writes to arrays that it has handed out (each step "
            "has to make new ones), or a core draws at random or keeps something outside its state"
        )


def core_metrics(records: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """Scalars to log from what a core recorded (``fwp_rl.cores.recording``)."""
    metrics = {}
    if "beta" in records:
        beta = torch.cat([layer.flatten() for layer in records["beta"]])
        metrics["core/beta_mean"] = beta.mean()
        metrics["core/beta_std"] = beta.std(correction=0)  # one alone has one too: 0
    for index, weight in enumerate(records.get("fast_weight", [])):
        norm = torch.linalg.matrix_norm(weight)
        metrics[f"core/fast_weight_norm_layer{index + 1}"] = norm.mean()
    return metrics
