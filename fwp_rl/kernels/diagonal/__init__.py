"""A diagonal linear recurrence: every number of the state has a factor of its own.

    h <- 0          where reset
    h <- a h + x    elementwise; real numbers, or complex ones as two parts
    y  = h

The recurrence of the Linear Recurrent Unit (Orvieto et al., 2023), whose a is complex and the same
at all steps, and of minGRU (Feng et al., 2024), whose a = 1 - z is real and differs from step to
step. The op takes a itself, neither its logarithm nor its angle: what it computes is then a
polynomial, whose gradients are exact everywhere, at a = 0 too, where a logarithm is infinite and
its gradient zero or, behind the logarithm, not a number. Magnitude and angle are the caller's,
a = r (cos θ, sin θ), on as many numbers as there are factors.
"""

from math import sqrt

from torch import Tensor

from fwp_rl.kernels.diagonal.reference import diagonal_reference
from fwp_rl.kernels.op import Op

__all__ = ["OP", "diagonal"]

OP = Op(
    __name__,
    inputs={
        "x": "T B (2) H V",
        "a": "(T B) (2) H V",
        "state": "B (2) H V",
        "reset": "?T B",
    },
    outputs={"y": "T B (2) H V", "state": "B (2) H V"},
    saved={},
    reference=diagonal_reference,
    cuda_limits={},
    draw={"a": lambda x: x.tanh() / sqrt(2)},
    sweeps=(4, 12),
)


def diagonal(
    x: Tensor,
    a: Tensor,
    state: Tensor,
    *,
    reset: Tensor | None = None,
    gradient_horizon: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run T steps of a diagonal linear recurrence, with exact gradients for every input.

    x        [T, B, H, V], or [T, B, 2, H, V]: real and imaginary parts
    a        [T, B, H, V], or [H, V] for all steps and columns; of complex numbers
             [T, B, 2, H, V] or [2, H, V]
    state    [B, H, V], or [B, 2, H, V]: h before step 0; not changed, not aliased by the result
    reset    [T, B] bool   h is zeroed *before* step t; None means never
    gradient_horizon
             n: gradients end before the steps n, 2 n, ...; None: they are exact
    backend  "auto", "reference", "numba", "cuda"; see ``fwp_rl.kernels.dispatch``
    returns  y, as x: h after every step; and h after the last one, as the state

    Dtypes and autocast as in ``fast_weight``; gradients of gradients: reference only. Raises
    TypeError, ValueError or BackendError, in one line.

    Example: 20 steps of 3 environments, 8 complex numbers that turn by a tenth at each step.

    >>> angle = torch.full((1, 8), 0.1 * 2 * torch.pi)
    >>> a = torch.stack([angle.cos(), angle.sin()])
    >>> y, h = diagonal(torch.randn(20, 3, 2, 1, 8), a, torch.zeros(3, 2, 1, 8))
    >>> y.shape, torch.equal(y[-1], h)
    (torch.Size([20, 3, 2, 1, 8]), True)
    """
    return OP.apply(x, a, state, reset, gradient_horizon, backend=backend)
