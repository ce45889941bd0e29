"""recurrent_delta, as the tests of this folder see an op."""

from fwp_rl.kernels.recurrent_delta import TABLE, cuda
from fwp_rl.kernels.recurrent_delta import recurrent_delta as op

__all__ = ["NAME", "ODD_SIZES", "SIZES", "SMALL", "TABLE", "VARIANTS", "cuda", "make_inputs", "op"]

NAME = "recurrent_delta"
SIZES = [{"K": D, "V": D} for D in (16, 32, 64)]
ODD_SIZES = [{"K": 1, "V": 1}, {"K": 7, "V": 33}, {"K": 29, "V": 17}]
SMALL = {"K": 32, "V": 32}  # the smallest of several warps
VARIANTS = {"": {}}


def make_inputs(T, B, H, normal, *, K, V):
    """Arguments of the op without reset, in float64. ``normal(*shape)`` draws a tensor."""
    return {
        "xq": normal(T, B, H, K),
        "xk": normal(T, B, H, K),
        "xv": normal(T, B, H, V),
        "xb": normal(T, B, H),
        "R_q": normal(H, K, V) / V**0.5,
        "R_k": normal(H, K, V) / V**0.5,
        "R_v": normal(H, V, V) / V**0.5,
        "r_b": normal(H, V) / V**0.5,
        "state": (normal(B, H, V, K), normal(B, H, V)),
    }
