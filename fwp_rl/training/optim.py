"""Learning-rate schedule and gradient clipping, shared by the agents."""

import torch
from torch import nn

__all__ = ["clip_gradients", "linear_to_zero", "set_learning_rate"]


def linear_to_zero(start: float, step: int, total_steps: int) -> float:
    """``start`` at step 0, 0 at ``total_steps``, a straight line between.

    A function of the step alone: a resumed run continues on it, and a run that is extended with a
    larger ``total_steps`` moves onto the new, flatter line.
    """
    return start * max(0.0, 1.0 - step / total_steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def clip_gradients(module: nn.Module, max_norm: float) -> torch.Tensor:
    """Scale the gradients down to a global norm of at most ``max_norm``; returns the norm before.

    Raises FloatingPointError where the norm is not finite, before it can reach the weights.
    """
    norm = nn.utils.clip_grad_norm_(module.parameters(), max_norm)
    if not torch.isfinite(norm):
        raise FloatingPointError(
            f"the gradient norm is {norm.item()}: the weights are untouched, and the last "
            "checkpoint is good to resume from. If it comes back, start a new run with a smaller "
            "learning rate or with --precision float32"
        )
    return norm
