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

from fwp_rl.kernels.dispatch import run_op
from fwp_rl.kernels.fast_weight.chunkwise import fast_weight_chunkwise
from fwp_rl.kernels.fast_weight.reference import fast_weight_reference
from fwp_rl.kernels.registration import register
from fwp_rl.registry import suggestion

__all__ = ["fast_weight"]

RULES = ("delta", "sum")


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
    backend    "auto", "reference", "chunkwise", "numba", "cuda"; see ``fwp_rl.kernels.dispatch``
    returns    y [T, B, H, V] and W after the last step [B, H, V, K], of the dtypes of q
               and of the state given

    All float tensors have one dtype: float32, float64, float16 or bfloat16; the last two are
    computed in float32, except by the reference, and go with a float32 state as well, which then
    stays float32. Under autocast, inputs of any float types are
    cast to float32 and the results are float32. Gradients of gradients: reference and chunkwise
    only. Raises TypeError, ValueError or BackendError, in one line.
    """
    if rule not in RULES:
        hint = suggestion(str(rule), RULES)
        raise ValueError(f"unknown rule {rule!r}. {hint + ' ' if hint else ''}Known: delta, sum")
    if beta is None and rule == "delta":
        raise ValueError('beta is None, expected a tensor [T, B, H]; only rule="sum" goes without')
    y, new_state = run_op(
        "fast_weight",
        TABLE,
        {
            "q": (q, "T B H K"),
            "k": (k, "T B H K"),
            "v": (v, "T B H V"),
            "beta": (beta, "T B H"),
            "state": (state, "B H V K"),
            "log_decay": (log_decay, "T B H"),
            "reset": (reset, "T B"),
        },
        rule,
        optional=("beta", "log_decay", "reset"),
        cuda_limits={"K": 128, "V": 128},
        backend=backend,
    )
    return y, new_state


def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    state: Tensor,
    log_decay: Tensor | None,
    reset: Tensor | None,
    rule: str,
) -> tuple[Tensor, Tensor, Tensor]:
    u = v.shape if rule == "delta" else (0,)
    return v.new_empty(v.shape), state.new_empty(state.shape), state.new_empty(u)


_fused = register(
    __name__,
    inputs="Tensor q, Tensor k, Tensor v, Tensor? beta, Tensor state, Tensor? log_decay, "
    "Tensor? reset, str rule",
    outputs="y, state",
    saved="u",
    fake=_fake,
)

TABLE = {
    "reference": fast_weight_reference,
    "chunkwise": fast_weight_chunkwise,
    "numba": _fused,
    "cuda": _fused,
}
