"""fast_weight, as the tests of this folder see an op.

NAME, op, TABLE, cuda   the op's name, function, backends and module
SIZES                   every size that a kernel is made for
ODD_SIZES               sizes that are padded, the last one to SMALL
SMALL                   a size whose blocks have several warps
VARIANTS                name → options of make_inputs
"""

from itertools import product

from torch.nn.functional import normalize

from fwp_rl.kernels import fast_weight as op
from fwp_rl.kernels.fast_weight import TABLE, cuda

__all__ = ["NAME", "ODD_SIZES", "SIZES", "SMALL", "TABLE", "VARIANTS", "cuda", "make_inputs", "op"]

NAME = "fast_weight"
SIZES = [{"K": K, "V": V} for K, V in product((16, 32, 64, 128), repeat=2)]
ODD_SIZES = [{"K": 1, "V": 1}, {"K": 33, "V": 7}, {"K": 100, "V": 65}, {"K": 33, "V": 47}]
SMALL = {"K": 64, "V": 64}
VARIANTS = {
    "delta": {"rule": "delta"},
    "delta, decay": {"rule": "delta", "decay": True},
    "sum": {"rule": "sum"},
    "sum, decay": {"rule": "sum", "decay": True},
    "sum without beta": {"rule": "sum", "beta": False},
}


def make_inputs(T, B, H, normal, *, K, V, rule, decay=False, beta=True):
    """Arguments of the op without reset, in float64. ``normal(*shape)`` draws a tensor."""
    return {
        "q": normalize(normal(T, B, H, K), dim=-1),
        "k": normalize(normal(T, B, H, K), dim=-1),
        "v": normal(T, B, H, V),
        "beta": normal(T, B, H).sigmoid() if beta else None,
        "state": normal(B, H, V, K),
        "log_decay": -normal(T, B, H).square() if decay else None,
        "rule": rule,
    }
