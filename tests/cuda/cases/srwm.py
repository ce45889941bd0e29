"""srwm, as the tests of this folder see an op."""

from itertools import product

from fwp_rl.kernels.srwm import TABLE, cuda
from fwp_rl.kernels.srwm import srwm as op

__all__ = ["NAME", "ODD_SIZES", "SIZES", "SMALL", "TABLE", "VARIANTS", "cuda", "make_inputs", "op"]

NAME = "srwm"
SIZES = [{"K": K, "V": V} for K, V in product((16, 32, 64), repeat=2)]
ODD_SIZES = [{"K": 1, "V": 1}, {"K": 7, "V": 33}, {"K": 16, "V": 1}, {"K": 33, "V": 7}]
SMALL = {"K": 16, "V": 32}  # the smallest of several warps
VARIANTS = {"": {}}


def make_inputs(T, B, H, normal, *, K, V):
    """Arguments of the op without reset, in float64. ``normal(*shape)`` draws a tensor."""
    rows = (V, K, K, 4)
    return {
        "x": normal(T, B, H, K),
        "W_y": normal(H, V, K) / K**0.5,
        # wide enough for the queries, keys and rates to be far from uniform
        **{
            name: 2 * normal(H, n, K)
            for name, n in zip(("W_q", "W_k", "W_b"), rows[1:], strict=True)
        },
        "state": tuple(normal(B, H, n, K) / K**0.5 for n in rows),
    }
