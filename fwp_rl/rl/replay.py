"""Running a policy over stored rollouts, as learners do."""

import torch
from torch import Tensor

from fwp_rl.models.policy import Policy
from fwp_rl.types import Observation, PolicyOutput, Rollout

__all__ = ["copy_columns", "core_metrics", "replay", "select_columns"]


def select_columns(rollout: Rollout, columns: Tensor) -> Rollout:
    """The rollout of some environment columns: whole sequences, with their own initial state.

    columns  int64 indices into B
    """
    observation = rollout.observation
    return Rollout(
        observation=Observation(
            obs=observation.obs[:, columns],
            reset=observation.reset[:, columns],
            last_reward=observation.last_reward[:, columns],
            last_action=observation.last_action[:, columns],
        ),
        action=rollout.action[:, columns],
        reward=rollout.reward[:, columns],
        terminated=rollout.terminated[:, columns],
        truncated=rollout.truncated[:, columns],
        mask=rollout.mask[:, columns],
        behaviour_logits=rollout.behaviour_logits[:, columns],
        value=rollout.value[:, columns],
        initial_state=tuple(leaf[columns] for leaf in rollout.initial_state),
    )


def copy_columns(source: Rollout, columns: slice, target: Rollout, into: slice) -> None:
    """Copy environment columns of one rollout over columns of another, of the same length."""
    pairs = zip(_time_major(source), _time_major(target), strict=True)
    for tensor, destination in pairs:
        destination[:, into].copy_(tensor[:, columns], non_blocking=True)
    for tensor, destination in zip(source.initial_state, target.initial_state, strict=True):
        destination[into].copy_(tensor[columns], non_blocking=True)


def _time_major(rollout: Rollout) -> tuple[Tensor, ...]:
    """All tensors [T, B, ...] and [T + 1, B, ...] of a rollout."""
    observation = rollout.observation
    return (
        observation.obs,
        observation.reset,
        observation.last_reward,
        observation.last_action,
        rollout.action,
        rollout.reward,
        rollout.terminated,
        rollout.truncated,
        rollout.mask,
        rollout.behaviour_logits,
        rollout.value,
    )


def replay(policy: Policy, rollout: Rollout, *, start: int, stop: int) -> PolicyOutput:
    """The policy on steps ``start`` to ``stop`` of a rollout, from its stored initial state.

    The steps before ``start`` are burn-in: they bring the state up to date with the present
    weights and get no gradient (Kapturowski et al. 2019).
    """
    state = rollout.initial_state
    if start:
        with torch.no_grad():
            state = policy(_steps(rollout.observation, 0, start), state).state
    output: PolicyOutput = policy(_steps(rollout.observation, start, stop), state)
    return output


def _steps(observation: Observation, start: int, stop: int) -> Observation:
    return Observation(
        obs=observation.obs[start:stop],
        reset=observation.reset[start:stop],
        last_reward=observation.last_reward[start:stop],
        last_action=observation.last_action[start:stop],
    )


def core_metrics(records: dict[str, list[Tensor]]) -> dict[str, float]:
    """Scalars to log from what a core recorded (``fwp_rl.cores.recording``)."""
    metrics = {}
    if "beta" in records:
        beta = torch.cat([layer.flatten() for layer in records["beta"]])
        metrics["core/beta_mean"] = beta.mean().item()
        metrics["core/beta_std"] = beta.std().item()
    for index, weight in enumerate(records.get("fast_weight", [])):
        norm = torch.linalg.matrix_norm(weight)
        metrics[f"core/fast_weight_norm_layer{index + 1}"] = norm.mean().item()
    return metrics
