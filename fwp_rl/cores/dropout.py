"""Dropout whose draws do not depend on who computes them.

Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting" (2014): each
number becomes 0 with probability p, and the others are divided by 1 − p.

torch has one random stream for all threads of a CPU: what a mask is would depend on which thread
asks first. Whoever computes parts of a batch in threads hands each part a generator of its own,
as ``draws_of_parts`` does for a gradient step:

    with dropout_draws(generator):
        core(x, state, reset)

Nothing is dropped where no gradient is taken: a policy acts, and is evaluated, with all of itself.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Dropout", "draws_of_parts", "dropout_draws"]

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


def draws_of_parts(module: nn.Module, parts: int) -> Callable[[int], AbstractContextManager[None]]:
    """For a batch of so many parts: in which context ``module`` computes each. All have generators
    of their own, seeded by torch's global one, which is asked only where something is dropped."""
    if not any(isinstance(x, Dropout) and x.drops for x in module.modules()):
        return lambda part: nullcontext()
    device = next(module.parameters()).device
    seeds = torch.randint(2**62, (parts,)).tolist()
    return lambda part: dropout_draws(torch.Generator(device).manual_seed(seeds[part]))


class Dropout(nn.Module):
    """In training, and where gradients are taken; else it hands on what it is given.

    forward(x [...]) -> [...]
    """

    def __init__(self, p: float) -> None:
        """p: the share that is dropped, below 1."""
        super().__init__()
        self.p = p

    @property
    def drops(self) -> bool:
        """Whether it does anything where gradients are taken."""
        return self.p > 0 and self.training

    def forward(self, x: Tensor) -> Tensor:
        if not (self.p and self.training and torch.is_grad_enabled()):
            return x
        generator = None if torch.compiler.is_compiling() else _generator.get()
        if generator is None:
            return F.dropout(x, self.p)
        kept = torch.empty(x.shape, dtype=x.dtype, device=generator.device)
        kept.bernoulli_(1 - self.p, generator=generator).div_(1 - self.p)
        return x * kept.to(x.device)

    def extra_repr(self) -> str:
        return f"p={self.p}"
