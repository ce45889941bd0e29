"""Feature maps φ of keys and queries, each normalised so that the delta rule stays stable.

    elu1      ELU(a) + 1                                         Katharopoulos et al. 2020
    dpfpN     z = [relu(a), relu(-a)]; [z ⊙ roll(z, j)], j ≤ N   Schlag et al. 2021, eq. 33-37
    favor     exp(-|a|²/2) [exp(Ωa), exp(-Ωa)] / sqrt(2m)        Choromanski et al. 2021, FAVOR+
    softmax   softmax(a)                                         Irie et al. 2021
    relu      relu(a)
    identity  a

Non-negative maps are divided by their sum, sn(a) = a / (Σa + 1e-5), "crucial for stable training"
in the words of Schlag et al.; softmax needs nothing more; identity is divided by its length,
a / sqrt(Σa² + 1e-5). Vectors of zeros give zeros with finite gradients.
"""

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

    It has no parameters. ``favor`` keeps its projection as a buffer, drawn from ``seed`` alone,
    so that a saved policy holds the very features that it was trained with. (The authors draw a
    new one at every call, which makes one call with T steps differ from T calls with one.)
    """

    projection: Tensor | None

    def __init__(self, name: FeatureMapName, input_size: int, *, seed: int = 0) -> None:
        super().__init__()
        growth, self._map = _MAPS[name]
        self.output_size = growth * input_size
        projection = favor_projection(input_size, input_size, seed) if name == "favor" else None
        self.register_buffer("projection", projection)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self._map(x if self.projection is None else x @ self.projection.T)
        return features


def favor_projection(size: int, count: int, seed: int) -> Tensor:
    """Ω of FAVOR+, float32 [count, size]: rows orthogonal in blocks of ``size``, each as long as
    an independent N(0, I) vector."""
    generator = torch.Generator().manual_seed(seed)
    blocks = [
        nn.init.orthogonal_(torch.empty(size, size), generator=generator)
        for _ in range(0, count, size)
    ]
    length: Tensor = torch.randn(count, size, generator=generator).norm(dim=1, keepdim=True)
    return torch.cat(blocks)[:count] * length


def _sum_normalised(x: Tensor) -> Tensor:
    return x / (x.sum(-1, keepdim=True) + _EPSILON)


def _elu1(x: Tensor) -> Tensor:
    return _sum_normalised(F.elu(x) + 1)


def _dpfp(nu: int) -> Callable[[Tensor], Tensor]:
    def dpfp(x: Tensor) -> Tensor:
        z = torch.cat([x, -x], dim=-1).relu()
        blocks = [z * z.roll(j, dims=-1) for j in range(1, nu + 1)]
        return _sum_normalised(torch.cat(blocks, dim=-1))

    return dpfp


def _favor(u: Tensor) -> Tensor:
    # Of u = Ωa. Sum-normalisation cancels the factor exp(-|a|²/2) / sqrt(2m) and turns exp into
    # softmax, which subtracts the maximum of this very vector: no overflow, no look at other steps.
    return torch.cat([u, -u], dim=-1).softmax(-1)


def _softmax(x: Tensor) -> Tensor:
    return x.softmax(-1)


def _relu(x: Tensor) -> Tensor:
    return _sum_normalised(x.relu())


def _identity(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + _EPSILON)


_MAPS: Final[dict[str, tuple[int, Callable[[Tensor], Tensor]]]] = {
    "elu1": (1, _elu1),
    "dpfp1": (2, _dpfp(1)),
    "dpfp2": (4, _dpfp(2)),
    "dpfp3": (6, _dpfp(3)),
    "favor": (2, _favor),
    "softmax": (1, _softmax),
    "relu": (1, _relu),
    "identity": (1, _identity),
}
"""Name → (growth of the size, map)."""
