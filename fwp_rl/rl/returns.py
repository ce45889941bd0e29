"""Targets and advantages over rollouts that hold ends of episodes and dummy steps.

``mask`` is false at dummy steps (``fwp_rl/types.py``). It multiplies the whole recursion, so a
dummy's advantage is zero, nothing crosses from one episode to the next, and a step truncated at e
bootstraps from value[e + 1] alone, which is the value of the true last observation.
"""

import torch
from torch import Tensor

__all__ = ["gae", "q_lambda", "v_trace"]


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
    _check_value(reward, value)
    delta = reward + discount * value[1:] - value[:-1]
    advantage = _backward_sum(delta, discount * lam, mask)
    return value[:-1] + advantage, advantage


def q_lambda(
    reward: Tensor, discount: Tensor, value: Tensor, mask: Tensor, *, lam: float
) -> Tensor:
    """Q(λ) returns (Peng and Williams 1996) of what a policy has played; no gradient in them.

        G[t] = r[t] + discount[t] ((1 − λ) v[t+1] + λ G[t+1]),   G[T] = v[T],   v = max over a of Q

    At a dummy step G is v: a truncated step bootstraps from the value of its true last observation.
    Actions that were not greedy do not cut the trace. G − v obeys the recursion of ``gae``, whose
    arguments these are.
    """
    return gae(reward, discount, value, mask, lam=lam)[0]


@torch.no_grad()
def v_trace(
    log_rho: Tensor,
    reward: Tensor,
    discount: Tensor,
    value: Tensor,
    mask: Tensor,
    *,
    lam: float = 1.0,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    pg_rho_bar: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """V-trace targets and advantages for what another policy has played.

    Espeholt et al., "IMPALA" (2018), eq. 1 in its recursive form (remark 1), with λ in the traces
    (remark 2):

        ρ[t] = min(rho_bar, π/μ),  c[t] = λ min(c_bar, π/μ)
        δ[t] = ρ[t] (r[t] + discount[t] v[t+1] − v[t])
        e[t] = mask[t] (δ[t] + discount[t] c[t] e[t+1]),   e[T] = 0,   vs = v + e
        A[t] = mask[t] min(pg_rho_bar, π/μ) (r[t] + discount[t] vs[t+1] − v[t]),   vs[T] = v[T]

    log_rho   [T, B]    log π(a|s) − log μ(a|s): the learner's policy over the one that acted
    reward    [T, B]    the answer to action[t]
    discount  [T, B]    γ (1 − terminated[t])
    value     [T+1, B]  of the learner's policy; the last entry is the bootstrap value
    mask      [T, B]    bool
    returns value targets vs and policy-gradient advantages A, both [T, B]; no gradient flows into
    either.
    """
    _check_value(reward, value)
    rho = log_rho.exp()
    delta = rho.clamp(max=rho_bar) * (reward + discount * value[1:] - value[:-1])
    target = value[:-1] + _backward_sum(delta, discount * lam * rho.clamp(max=c_bar), mask)
    following = torch.cat([target[1:], value[-1:]])
    advantage = rho.clamp(max=pg_rho_bar) * (reward + discount * following - value[:-1])
    return target, torch.where(mask, advantage, torch.zeros_like(advantage))


def _backward_sum(delta: Tensor, decay: Tensor, mask: Tensor) -> Tensor:
    """x[t] = mask[t] (delta[t] + decay[t] x[t+1]) with x[T] = 0; all [T, B].

    In log2(T) rounds over whole tensors: after round n an entry has the terms of the 2^n steps from
    its own on, and ``decay`` the weight of what follows them. A loop over time calls torch T times
    as often, and on a GPU each call is a launch.
    """
    # masked_fill, not a product: a NaN at a dummy step must not leak
    delta, decay = delta.masked_fill(~mask, 0), decay.masked_fill(~mask, 0)
    span = 1
    while span < len(delta):
        near, far = delta[:-span], delta[span:]
        delta = torch.cat([near + decay[:-span] * far, delta[-span:]])
        decay = torch.cat([decay[:-span] * decay[span:], decay[-span:]])
        span *= 2
    return delta


def _check_value(reward: Tensor, value: Tensor) -> None:
    steps = reward.shape[0]
    if value.shape != (steps + 1, *reward.shape[1:]):
        raise ValueError(
            f"value has shape {tuple(value.shape)}, expected T + 1 = {steps + 1} rows of the "
            f"reward's {tuple(reward.shape[1:])}"
        )
