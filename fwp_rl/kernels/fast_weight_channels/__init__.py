"""The general form of ``fast_weight``: each key channel decays by itself, and what is erased is
read with a key of its own.

    W <- 0                           where reset
    W <- W diag(exp(log_decay))
    W <- W + beta v k^T              rule "sum":   Gated Linear Attention (Yang et al., 2023)
    W <- W + beta (v - W erase) k^T  rule "delta": Kimi Delta Attention (Kimi Team, 2025), erase = k
    y  = W q

Users call ``fast_weight``, which gives here what has such a decay or such a key, and fills in the
rest. An op of its own, so that what goes without is the arithmetic that it was, and what was
exported of it still loads.
"""

from torch import Tensor
from torch.nn.functional import normalize

from fwp_rl.kernels.fast_weight_channels.chunkwise import fast_weight_channels_chunkwise
from fwp_rl.kernels.fast_weight_channels.reference import fast_weight_channels_reference
from fwp_rl.kernels.op import Op

__all__ = ["OP", "fast_weight_channels"]

OP = Op(
    __name__,
    inputs={
        "q": "T B H K",
        "k": "T B H K",
        "v": "T B H V",
        "beta": "T B H",
        "state": "B H V K",
        "erase": "?T B H K",
        "log_decay": "T B H K",
        "reset": "?T B",
    },
    options={"rule": ("delta", "sum")},
    outputs={"y": "T B H V", "state": "B H V K"},
    saved={"u": "T B H V"},
    only={"erase": ("rule", "delta"), "u": ("rule", "delta")},
    barred={"erase": ("rule", "sum")},
    reference=fast_weight_channels_reference,
    chunkwise=fast_weight_channels_chunkwise,
    cuda_limits={"K": 64, "V": 64},
    draw={
        "q": lambda x: normalize(x, dim=-1),
        "k": lambda x: normalize(x, dim=-1),
        "beta": Tensor.sigmoid,
        "erase": lambda x: normalize(x, dim=-1),
        "log_decay": lambda x: -x.square(),
    },
    sweeps=(3, 7),
)


def fast_weight_channels(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    state: Tensor,
    *,
    erase: Tensor | None,
    log_decay: Tensor,
    reset: Tensor | None = None,
    rule: str = "delta",
    gradient_horizon: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Arguments and results as in ``fast_weight``, each in its full shape.

    beta       [T, B, H]
    erase      [T, B, H, K]  None for the sum rule alone
    log_decay  [T, B, H, K]

    Example: 20 steps of 3 environments, 2 heads.

    >>> q, k, erase = torch.randn(3, 20, 3, 2, 8).softmax(-1).unbind()
    >>> v, beta, state = torch.randn(20, 3, 2, 5), torch.rand(20, 3, 2), torch.zeros(3, 2, 5, 8)
    >>> log_decay = -torch.rand(20, 3, 2, 8)
    >>> y, W = fast_weight_channels(q, k, v, beta, state, erase=erase, log_decay=log_decay)
    >>> y.shape, W.shape
    (torch.Size([20, 3, 2, 5]), torch.Size([3, 2, 5, 8]))
    """
    return OP.apply(
        *(q, k, v, beta, state, erase, log_decay, reset, rule, gradient_horizon), backend=backend
    )
