"""Losses step by step, their sums and means over the steps that count, and what is built from them.

A loss stays a number for each step until a gradient step sums it (``fwp_rl.training.descent``): a
minibatch that is cut into parts then has the loss, the gradient and the metrics of the whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

__all__ = ["StepLosses", "explained_variance", "join", "masked_mean", "masked_sum", "normalize"]


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of x over the entries where the mask is true."""
    return torch.where(mask, x, torch.zeros_like(x)).sum()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x over the entries where the mask is true; 0 where there are none."""
    return masked_sum(x, mask) / mask.sum().clamp(min=1)


def normalize(x: Tensor, mask: Tensor, epsilon: float = 1e-8) -> Tensor:
    """x shifted and scaled to mean 0 and standard deviation 1 over the true entries of the mask.

    Where all of them are equal they become 0, and so does one that is alone: there is no spread to
    measure it by.
    """
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    return (x - mean) / (variance.sqrt() + epsilon)


@torch.no_grad()
def explained_variance(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 − Var[target − prediction] / Var[target] over the true entries of the mask: 1 is perfect,
    0 is no better than a constant; NaN where the target does not vary."""

    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)) ** 2, mask)

    spread = variance(target)
    return torch.where(
        spread > 0, 1 - variance(target - prediction) / spread, torch.full_like(spread, torch.nan)
    )


@dataclass(kw_only=True, slots=True)
class StepLosses:
    """The loss of each step of some environments, and the metrics that go with it.

    loss       [T, B]          with gradient
    mask       [T, B]  bool    the steps that count
    parts      name → [T, B]   terms of the loss: logged as the loss is reduced
    means      name → [T, B]   logged as means
    maxima     name → [T, B]   logged as the largest, none of them negative
    explained  name → prediction [T, B], target [T, B]: logged as explained variance

    Metrics have no gradient. What stands at steps that do not count is left out of everything.
    """

    loss: Tensor
    mask: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    means: Mapping[str, Tensor] = field(default_factory=dict)
    maxima: Mapping[str, Tensor] = field(default_factory=dict)
    explained: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def reduce(self, divisor: Tensor) -> Tensor:
        """The scalar loss: the sum over the steps that count, over ``divisor``."""
        return masked_sum(self.loss, self.mask) / divisor

    @torch.no_grad()
    def metrics(self, divisor: Tensor) -> dict[str, Tensor]:
        """Scalars to log."""
        mask = self.mask
        return {
            **{name: masked_sum(x, mask) / divisor for name, x in self.parts.items()},
            **{name: masked_mean(x, mask) for name, x in self.means.items()},
            **{name: x.masked_fill(~mask, 0).amax() for name, x in self.maxima.items()},
            **{name: explained_variance(*x, mask) for name, x in self.explained.items()},
        }


def join(parts: Sequence[StepLosses]) -> StepLosses:
    """The losses of all their environments, side by side and without gradient."""
    names = [field.name for field in fields(StepLosses)]
    return StepLosses(**{name: _side_by_side([getattr(x, name) for x in parts]) for name in names})


def _side_by_side(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Mapping):
        return {name: _side_by_side([value[name] for value in values]) for name in first}
    if isinstance(first, tuple):
        return tuple(_side_by_side(value) for value in zip(*values, strict=True))
    if len(values) == 1:
        return first.detach()
    return torch.cat([value.detach() for value in values], dim=1)
