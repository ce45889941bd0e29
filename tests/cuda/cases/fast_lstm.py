"""fast_lstm, as the tests of this folder see an op."""

from fwp_rl.kernels.fast_lstm import TABLE, cuda
from fwp_rl.kernels.fast_lstm import fast_lstm as op

__all__ = ["NAME", "ODD_SIZES", "SIZES", "SMALL", "TABLE", "VARIANTS", "cuda", "make_inputs", "op"]

NAME = "fast_lstm"
SIZES = [{"V": V} for V in (16, 32, 64)]
ODD_SIZES = [{"V": V} for V in (1, 7, 33)]
SMALL = {"V": 64}  # where the next chunk is staged by other warps than the first too
VARIANTS = {"": {}}


def make_inputs(T, B, H, normal, *, V):
    """Arguments of the op without reset, in float64. ``normal(*shape)`` draws a tensor."""
    return {
        "z": normal(T, B, 3, H, V),
        "k": normal(T, B, 3, H, V).softmax(-1),
        "v": normal(T, B, 3, H, V),
        "beta": normal(T, B, 3, H).sigmoid(),
        "state": (normal(B, 3, H, V, V) / V**0.5, normal(B, H, V), normal(B, H, V)),
    }
