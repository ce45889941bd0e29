"""Feature maps φ of keys and queries, each normalised so that the delta rule stays stable.

    elu1      ELU(a) + 1                                         Katharopoulos et al. 2020
    dpfpN     z = [relu(a), relu(-a)]; [z ⊙ roll(z, j)], j ≤ N   Schlag et al. 2021, eq. 33-37
    favor     exp(-|a|²/2) [exp(Ωa), exp(-Ωa)] + ε               Choromanski et al. 2021, FAVOR+
    softmax   softmax(a)                                         Irie et al. 2021
    relu      relu(a)
    identity  a

Non-negative maps are divided by their sum, sn(a) = a / (Σa + 1e-5), "crucial for stable training"
in the words of Schlag et al., favor without the 1e-5; softmax needs nothing more; identity is
divided by its length, a / sqrt(Σa² + 1e-5). Vectors of zeros have finite features and gradients.
"""

import math
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FeatureMap", "FeatureMapName", "favor_projection"]

FeatureMapName: TypeAlias = Literal[
    "elu1", "dpfp1", "dpfp2", "dpfp3", "favor", "softmax", "relu", "identity"
]

_EPSILON: Final = 1e-5


class FeatureMap(nn.Module):
    """φ and its normalisation along the last axis: [..., input_size] to [..., output_size].

    It has no parameters. ``favor`` draws its projection Ω from torch's global generator, as
    weights are drawn, and keeps it as a buffer: a saved policy holds the very features that it was
    trained with. ``epsilon`` is its ε; ``rows`` are those of Ω, by default ``input_size``.
    """

    projection: Tensor | None

    def __init__(
        self,
        name: FeatureMapName,
        input_size: int,
        *,
        epsilon: float = 0.0,
        rows: int | None = None,
    ) -> None:
        super().__init__()
        self.name, self.epsilon = name, epsilon
        rows = rows or input_size
        self.output_size = _GROWTH.get(name, 1) * (rows if name == "favor" else input_size)
        projection = favor_projection(input_size, rows) if name == "favor" else None
        self.register_buffer("projection", projection)

    def forward(self, x: Tensor) -> Tensor:
        if self.projection is not None:
            return _favor(x, self.projection, self.epsilon)
        if self.name in _SUMMED:
            return _sum_normalised(_SUMMED[self.name](x))
        return _NORMALISED[self.name](x)

    def unnormalised(self, x: Tensor) -> Tensor:
        """What is divided by its sum in ``forward``; favor without its ε and as an estimate of the
        kernel exp(a·b), so divided by the root of its length. Not for softmax and identity."""
        if self.projection is None:
            return _SUMMED[self.name](x)
        u = x @ self.projection.T
        shift = x.square().sum(-1, keepdim=True) / 2 + math.log(self.output_size) / 2
        return (torch.cat([u, -u], dim=-1) - shift).exp()

    def redraw(self) -> None:
        """Take another Ω, where there is one; what was computed with the old one keeps it."""
        if self.projection is not None:
            count, size = self.projection.shape
            self.projection = favor_projection(size, count).to(self.projection)


def favor_projection(size: int, count: int) -> Tensor:
    """Ω of FAVOR+, float32 [count, size]: rows orthogonal in blocks of ``size``, each as long as
    an independent N(0, I) vector. Drawn on the CPU, so that a seed means the same everywhere."""
    blocks = [nn.init.orthogonal_(torch.empty(size, size)) for _ in range(0, count, size)]
    length: Tensor = torch.randn(count, size).norm(dim=1, keepdim=True)
    return torch.cat(blocks)[:count] * length


def _favor(x: Tensor, projection: Tensor, epsilon: float) -> Tensor:
    u = x @ projection.T
    u = torch.cat([u, -u], dim=-1)
    if not epsilon:
        # the sum cancels exp(-|a|²/2) and makes a softmax of exp, which cannot overflow
        return u.softmax(-1)
    exponent = u - x.square().sum(-1, keepdim=True) / 2
    # a power of e that the sum cancels again: no exponent above 0, so no overflow either
    shift = -exponent.detach().amax(-1, keepdim=True).clamp_min(0)
    features = (exponent + shift).exp() + epsilon * shift.exp()
    return features / features.sum(-1, keepdim=True)


def _sum_normalised(x: Tensor) -> Tensor:
    return x / (x.sum(-1, keepdim=True) + _EPSILON)


def _elu1(x: Tensor) -> Tensor:
    return F.elu(x) + 1


def _dpfp(nu: int) -> Callable[[Tensor], Tensor]:
    def dpfp(x: Tensor) -> Tensor:
        z = torch.cat([x, -x], dim=-1).relu()
        blocks = [z * z.roll(j, dims=-1) for j in range(1, nu + 1)]
        return torch.cat(blocks, dim=-1) if nu > 1 else blocks[0]

    return dpfp


def _softmax(x: Tensor) -> Tensor:
    return x.softmax(-1)


def _identity(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + _EPSILON)


_SUMMED: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "elu1": _elu1,
    "dpfp1": _dpfp(1),
    "dpfp2": _dpfp(2),
    "dpfp3": _dpfp(3),
    "relu": torch.relu,
}
"""Those that are divided by their sum, without that; favor has a projection."""

_NORMALISED: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "softmax": _softmax,
    "identity": _identity,
}

_GROWTH: Final = {"dpfp1": 2, "dpfp2": 4, "dpfp3": 6, "favor": 2}
"""How many times as long as the vector its features are, where it is not once."""
