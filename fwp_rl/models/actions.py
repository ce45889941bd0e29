"""Action rules: which action is played, given what a policy says of each.

A rule reads ``PolicyOutput.logits`` [..., A]: unnormalised log-probabilities of an actor-critic,
values of a Q-network. A policy has a rule of its own, which is saved with it; evaluations and films
play by it unless they are asked for another.
"""

from dataclasses import dataclass, fields
from typing import Annotated

import torch
from torch import Tensor

from fwp_rl.config import ConfigError, Range, check_ranges
from fwp_rl.models.categorical import greedy_action, sample_action
from fwp_rl.registry import Registry, UnknownNameError, canonical

__all__ = ["ACTION_RULES", "ActionRule", "EpsilonGreedy", "Greedy", "Sampled", "asked_rule"]


@dataclass(frozen=True, kw_only=True)
class ActionRule:
    """Base of all action rules."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def __call__(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One action per row, int64 [...], of logits [..., A]. The generator is on their device."""
        raise NotImplementedError

    def label(self) -> str:
        """How results name it: ``greedy``, ``epsilon_greedy 0.05``."""
        values = [f"{getattr(self, field.name):g}" for field in fields(self)]
        return " ".join([ACTION_RULES.name_of(type(self)), *values])


ACTION_RULES: Registry[ActionRule] = Registry("action rule", "fwp_rl.action_rules")


@ACTION_RULES.register("sampled")
@dataclass(frozen=True, kw_only=True)
class Sampled(ActionRule):
    """A draw from softmax(logits): the policy of an actor-critic."""

    def __call__(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return sample_action(logits, generator)


@ACTION_RULES.register("greedy")
@dataclass(frozen=True, kw_only=True)
class Greedy(ActionRule):
    """The most probable action, or the one of the greatest value; of equals the first."""

    def __call__(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return greedy_action(logits)


@ACTION_RULES.register("epsilon_greedy")
@dataclass(frozen=True, kw_only=True)
class EpsilonGreedy(ActionRule):
    """Any action, all equally probable, with probability epsilon, else the greedy one."""

    epsilon: Annotated[float, Range(0, 1)] = 0.05
    """ε; the default is that of DQN's evaluation (Mnih et al. 2015)."""

    def __call__(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        shape, device = logits.shape[:-1], logits.device
        # Both are drawn whatever ε is: another ε leaves the random stream as it was.
        chance = torch.empty(shape, device=device).uniform_(generator=generator)
        anything = torch.empty(shape, dtype=torch.int64, device=device)
        anything.random_(logits.shape[-1], generator=generator)
        return torch.where(chance < self.epsilon, anything, greedy_action(logits))


def asked_rule(actions: str | None, *, greedy: bool = False) -> ActionRule | None:
    """The action rule of that name, with its default values; None, the policy's own, where nothing
    is asked for. ConfigError where there is no such rule.

    greedy  is short for that name
    """
    if greedy and actions is not None and canonical(actions) != "greedy":
        raise ConfigError(f"actions: got {actions!r} and greedy, expected one of the two")
    if greedy or actions is None:
        return ACTION_RULES["greedy"]() if greedy else None
    try:
        return ACTION_RULES[actions]()
    except UnknownNameError as error:
        raise ConfigError(f"actions: {error}") from None
