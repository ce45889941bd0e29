"""Dropout whose draws do not depend on who computes them.

Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting" (2014): each
number becomes 0 with probability p, and the others are divided by 1 − p.

torch has one random stream for all threads of a CPU: what a mask is would depend on which thread
asks first. Whoever computes parts of a batch in threads hands each part a generator of its own:

    with dropout_draws(generator):
        core(x, state, reset)

Nothing is dropped where no gradient is taken: a policy acts, and is evaluated, with all of itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Dropout", "dropout_draws"]

_generator: ContextVar[torch.Generator | None] = ContextVar("dropout generator", default=None)


@contextmanager
def dropout_draws(generator: torch.Generator) -> Iterator[None]:
    """Draw the masks of all calls inside, in this thread, from a generator; from torch's global one
    outside. One that is on another device than what is dropped costs a copy of each mask, and gives
    the same masks on every device."""
    token = _generator.set(generator)
    try:
        yield
    finally:
        _generator.reset(token)


class Dropout(nn.Module):
    """In training, and where gradients are taken; else it hands on what it is given.

    forward(x [...]) -> [...]
    """

    def __init__(self, p: float) -> None:
        """p: the share that is dropped, below 1."""
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.p or not self.training or not torch.is_grad_enabled():
            return x
        generator = None if torch.compiler.is_compiling() else _generator.get()
        if generator is None:
            return F.dropout(x, self.p)
        kept = torch.empty(x.shape, dtype=x.dtype, device=generator.device)
        kept.bernoulli_(1 - self.p, generator=generator).div_(1 - self.p)
        return x * kept.to(x.device)

    def extra_repr(self) -> str:
        return f"p={self.p}"
