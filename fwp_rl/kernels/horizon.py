"""The gradient horizon: where a gradient ends on its way back in time.

With a horizon of n steps, all that is carried from a step to the next is a constant, as if
detached, before the steps n, 2 n, ... of a call. What is computed forward is the same. Never before
step 0: whether a gradient reaches the initial state is the caller's choice.
"""

import sys
from typing import Any

import torch

__all__ = ["cuts", "in_effect"]


def in_effect(gradient_horizon: Any) -> int:
    """The horizon as ``cuts`` and the backends take it: 0 for None, which is exact gradients, and
    where none are taken. Raises TypeError or ValueError, in one line, if it is no number of steps.
    """
    if gradient_horizon is None:
        return 0
    if not isinstance(gradient_horizon, int) or isinstance(gradient_horizon, bool):
        raise TypeError(
            f"gradient_horizon is of type {type(gradient_horizon).__name__}, "
            "expected a number of steps or None"
        )
    if gradient_horizon < 1:
        raise ValueError(
            f"gradient_horizon is {gradient_horizon}, expected at least 1 step, "
            "or None for exact gradients"
        )
    return min(gradient_horizon, sys.maxsize) if torch.is_grad_enabled() else 0


def cuts(t: int, horizon: int) -> bool:
    """Whether a horizon, if not 0, ends the gradient before step t."""
    return horizon > 0 and t > 0 and t % horizon == 0
