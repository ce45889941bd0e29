"""Learning-rate schedule and gradient clipping: parts of a gradient step (``descent.py``)."""

import math
from typing import Protocol

import torch
from torch import nn

from fwp_rl.models.policy import Policy
from fwp_rl.types import Rollout

__all__ = ["advice", "annealed", "clip_gradients", "linear_to_zero"]

LARGE = 1e4
"""Numbers beyond this are no fit input for a network."""


class Annealed(Protocol):
    """A config whose learning rate stays as it is, or falls to 0 at the end."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def anneal_learning_rate(self) -> bool: ...
    @property
    def total_steps(self) -> int: ...


def annealed(config: Annealed, step: int) -> float:
    """The learning rate of a step."""
    if not config.anneal_learning_rate:
        return config.learning_rate
    return linear_to_zero(config.learning_rate, step, config.total_steps)


def linear_to_zero(start: float, step: int, total_steps: int) -> float:
    """``start`` at step 0, 0 at ``total_steps``, a straight line between.

    A function of the step alone: a resumed run continues on it, and a run that is extended with a
    larger ``total_steps`` moves onto the new, flatter line.
    """
    return start * max(0.0, 1.0 - step / total_steps)


def clip_gradients(network: nn.Module, max_norm: float | None) -> torch.Tensor:
    """Scale the gradients down to a global norm of at most ``max_norm``, unless that is None;
    returns the norm before, which the caller is to look at: where it is not finite, no gradient
    is."""
    limit = math.inf if max_norm is None else max_norm
    return torch.nn.utils.clip_grad_norm_(network.parameters(), limit)


def advice(policy: Policy, rollout: Rollout) -> str:
    """Where a gradient that is not finite may come from."""
    seen = {"observation": rollout.observation.obs, "reward": policy.clip_reward(rollout.reward)}
    sizes = {name: x.abs().max().item() for name, x in seen.items()}
    large = [f"{name}s up to {size:.3g}" for name, size in sizes.items() if not size <= LARGE]
    if large:
        return (
            f"It learned from {' and '.join(large)}: scale such numbers down to the order of 1, in "
            "the environment or a wrapper of it"
        )
    return (
        "If it comes back, start a new run with a smaller learning rate or with --precision float32"
    )
