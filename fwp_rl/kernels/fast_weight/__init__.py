"""One fast weight matrix per head: written by the sum or the delta rule, then read.

    W <- 0                            where reset
    W <- W diag(exp(log_decay))       if given
    W <- W + beta v k^T               rule "sum":   Linear Transformers (Katharopoulos et al., 2020)
    W <- W + beta (v - W erase) k^T   rule "delta": DeltaNet (Schlag et al., 2021), erase = k
    y  = W q

With one decay for the matrix, the delta rule is that of Gated DeltaNet (Yang et al., 2024). With
one for each key channel it is Kimi Delta Attention (Kimi Team, 2025), and the sum rule Gated Linear
Attention (Yang et al., 2023); with a key of its own for what is erased, Gated DeltaNet-2 and, in
two steps each, RWKV-7 (Peng et al., 2025): ``tests/kernels/test_newer_rules.py`` has both. Keys and
queries arrive with their feature map and normalisation applied: the op is one equation.
"""

from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from fwp_rl.kernels.fast_weight.chunkwise import fast_weight_chunkwise
from fwp_rl.kernels.fast_weight.reference import fast_weight_reference
from fwp_rl.kernels.fast_weight_channels import fast_weight_channels
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
    erase: Tensor | None = None,
    log_decay: Tensor | None = None,
    reset: Tensor | None = None,
    rule: str = "delta",
    gradient_horizon: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run T steps of a fast weight memory, with exact gradients for every input.

    q, k       [T, B, H, K]
    v          [T, B, H, V]
    beta       [T, B, H]     write strength, 0 to 2; None, for the sum rule or beside ``erase``
                             only, means 1
    state      [B, H, V, K]  W before step 0; not changed, not aliased by the result
    erase      [T, B, H, K]  what W is read with for the error that the delta rule writes; None
                             means k, zeros erase nothing
    log_decay  [T, B, H] or [T, B, H, K]
                             log of what W, or each of its key channels, is multiplied by before
                             each write; None means 0, -inf forgets
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

    What has a decay for each channel or a key that erases runs as the op ``fast_weight_channels``.

    Example: 20 steps of 3 environments, 2 heads.

    >>> q, k = torch.randn(2, 20, 3, 2, 8).softmax(-1).unbind()
    >>> v, beta = torch.randn(20, 3, 2, 5), torch.rand(20, 3, 2)
    >>> y, W = fast_weight(q, k, v, beta, torch.zeros(3, 2, 5, 8))
    >>> y.shape, W.shape
    (torch.Size([20, 3, 2, 5]), torch.Size([3, 2, 5, 8]))
    """
    rank = getattr(log_decay, "ndim", 3)  # of what is no tensor the op's own check complains
    if erase is None and rank == 3:
        return OP.apply(
            q, k, v, beta, state, log_decay, reset, rule, gradient_horizon, backend=backend
        )
    if rank not in (3, 4):
        raise ValueError(
            f"log_decay has shape {tuple(log_decay.shape)}, "  # type: ignore[union-attr]
            "expected [T, B, H] or, for each channel, [T, B, H, K]"
        )
    beta, erase, log_decay = _in_full(k, beta, erase, log_decay, rule)
    return fast_weight_channels(
        *(q, k, v, beta, state),
        erase=erase,
        log_decay=log_decay,
        reset=reset,
        rule=rule,
        gradient_horizon=gradient_horizon,
        backend=backend,
    )


def _in_full(
    k: Tensor, beta: Tensor | None, erase: Tensor | None, log_decay: Any, rule: str
) -> tuple[Any, Tensor | None, Any]:
    """beta, erase and log_decay with what ``fast_weight_channels`` is to be given for None, and for
    a decay of the whole matrix. Gradients find their way back through torch."""
    if getattr(k, "ndim", 0) != 4:  # the op says what is wrong with it
        return beta, erase, log_decay
    if beta is None and (rule == "sum" or erase is not None):
        beta = k.new_ones(()).expand(k.shape[:-1])
    if erase is None and rule == "delta":
        erase = k
    if log_decay is None:
        log_decay = k.new_zeros(()).expand(k.shape)
    elif getattr(log_decay, "shape", None) == k.shape[:-1]:
        log_decay = log_decay.unsqueeze(-1).expand(k.shape)
    return beta, erase, log_decay
