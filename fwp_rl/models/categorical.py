"""The categorical distribution over actions, as plain functions of its logits [..., A].

torch.distributions says the same, at several times the cost per call: it validates its arguments
and normalises the logits anew for every object.
"""

import torch
from torch import Tensor

__all__ = ["entropy", "greedy_action", "kl_divergence", "log_prob", "sample_action"]


def sample_action(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One action per row, int64 [...], drawn from softmax(logits).

    An exponential race: the action whose Exp(1) clock, slowed by its probability, rings first. In
    float64, for float32 clocks have a finest tick of 6e-8 that would favour the rarest actions.
    """
    clock = torch.empty_like(logits, dtype=torch.float64).exponential_(generator=generator)
    return (logits.detach() - clock.log()).argmax(-1)


def greedy_action(logits: Tensor) -> Tensor:
    """The most probable action per row, int64 [...]; of equals the first."""
    return logits.argmax(-1)


def log_prob(logits: Tensor, action: Tensor) -> Tensor:
    """Log-probability [...] of action, int64 [...]."""
    return logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy [...] in nats."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def kl_divergence(logits: Tensor, other: Tensor) -> Tensor:
    """KL(softmax(logits) || softmax(other)) [...] in nats."""
    log_p = logits.log_softmax(-1)
    return (log_p.exp() * (log_p - other.log_softmax(-1))).sum(-1)
