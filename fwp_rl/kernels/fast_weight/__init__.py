"""One fast weight matrix per head: written by the sum or the delta rule, then read.

    W <- 0                          where reset
    W <- exp(log_decay) W           if given
    W <- W + beta v k^T             rule "sum":   Linear Transformers (Katharopoulos et al., 2020)
    W <- W + beta (v - W k) k^T     rule "delta": DeltaNet (Schlag et al., 2021)
    y  = W q

With decay, the delta rule is that of Gated DeltaNet (Yang et al., 2024). Keys and queries arrive
with their feature map and normalisation applied, beta between 0 and 1: the op is one equation.
"""

from torch import Tensor
from torch.nn.functional import normalize

from fwp_rl.kernels.fast_weight.chunkwise import fast_weight_chunkwise
from fwp_rl.kernels.fast_weight.reference import fast_weight_reference
from fwp_rl.kernels.op import Op

__all__ = ["OP", "fast_weight"]

OP = Op(
    __name__,
    inputs={
        "q": "T B H K",
        "k": "T B H K",
        "v": "T B H V",
        "beta": "?T B H",
        "state": "B H V K",
        "log_decay": "?T B H",
        "reset": "?T B",
    },
    options={"rule": ("delta", "sum")},
    outputs={"y": "T B H V", "state": "B H V K"},
    saved={"u": "T B H V"},
    only={"beta": ("rule", "delta"), "u": ("rule", "delta")},
    reference=fast_weight_reference,
    chunkwise=fast_weight_chunkwise,
    cuda_limits={"K": 128, "V": 128},
    draw={
        "q": lambda x: normalize(x, dim=-1),
        "k": lambda x: normalize(x, dim=-1),
        "beta": Tensor.sigmoid,
        "log_decay": lambda x: -x.square(),
    },
    sweeps=(3, 7),
)


def fast_weight(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    state: Tensor,
    *,
    log_decay: Tensor | None = None,
    reset: Tensor | None = None,
    rule: str = "delta",
    gradient_horizon: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run T steps of a fast weight memory, with exact gradients for every input.

    q, k       [T, B, H, K]
    v          [T, B, H, V]
    beta       [T, B, H]     write strength; None, for the sum rule only, means 1
    state      [B, H, V, K]  W before step 0; not changed, not aliased by the result
    log_decay  [T, B, H]     log of what W is multiplied by before each write; None means 0
    reset      [T, B] bool   W is zeroed *before* step t; None means never
    rule       "delta" or "sum"
    gradient_horizon
               n: gradients end before the steps n, 2 n, ...; None: they are exact
    backend    "auto", "reference", "chunkwise", "numba", "cuda"; see ``fwp_rl.kernels.dispatch``
    returns    y [T, B, H, V] and W after the last step [B, H, V, K], of the dtypes of q
               and of the state given

    All float tensors have one dtype: float32, float64, float16 or bfloat16; the last two are
    computed in float32, except by the reference, and go with a float32 state as well, which then
    stays float32. Under autocast, inputs of any float types are
    cast to float32 and the results are float32. Gradients of gradients: reference and chunkwise
    only. Raises TypeError, ValueError or BackendError, in one line.

    Example: 20 steps of 3 environments, 2 heads.

    >>> q, k = torch.randn(2, 20, 3, 2, 8).softmax(-1).unbind()
    >>> v, beta = torch.randn(20, 3, 2, 5), torch.rand(20, 3, 2)
    >>> y, W = fast_weight(q, k, v, beta, torch.zeros(3, 2, 5, 8))
    >>> y.shape, W.shape
    (torch.Size([20, 3, 2, 5]), torch.Size([3, 2, 5, 8]))
    """
    return OP.apply(q, k, v, beta, state, log_decay, reset, rule, gradient_horizon, backend=backend)
