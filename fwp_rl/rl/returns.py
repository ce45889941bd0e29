"""Targets and advantages over rollouts that hold ends of episodes and dummy steps.

``mask`` is false at dummy steps (``fwp_rl/types.py``). It multiplies the whole recursion, so a
dummy's advantage is zero, nothing crosses from one episode to the next, and a step truncated at e
bootstraps from value[e + 1] alone, which is the value of the true last observation.
"""

import torch
from torch import Tensor

__all__ = ["gae"]


@torch.no_grad()
def gae(
    reward: Tensor, discount: Tensor, value: Tensor, mask: Tensor, *, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16).

        δ[t] = r[t] + discount[t] v[t+1] − v[t]
        A[t] = mask[t] (δ[t] + discount[t] λ A[t+1]),   A[T] = 0

    reward    [T, B]    the answer to action[t]
    discount  [T, B]    γ (1 − terminated[t])
    value     [T+1, B]  the last entry is the bootstrap value
    mask      [T, B]    bool
    returns value targets v + A and advantages A, both [T, B]; no gradient flows into either.
    """
    steps = reward.shape[0]
    if value.shape != (steps + 1, *reward.shape[1:]):
        raise ValueError(
            f"value has shape {tuple(value.shape)}, expected T + 1 = {steps + 1} rows of the "
            f"reward's {tuple(reward.shape[1:])}"
        )
    delta = reward + discount * value[1:] - value[:-1]
    advantage = torch.zeros_like(reward)
    carry = torch.zeros_like(reward[0])
    zero = torch.zeros_like(carry)
    for t in range(steps - 1, -1, -1):
        # where, not a product: a NaN at a dummy step must not leak
        carry = torch.where(mask[t], delta[t] + discount[t] * lam * carry, zero)
        advantage[t] = carry
    return value[:-1] + advantage, advantage
