"""fast_rnn, as the tests of this folder see an op."""

from fwp_rl.kernels.fast_rnn import TABLE, cuda
from fwp_rl.kernels.fast_rnn import fast_rnn as op

__all__ = ["NAME", "ODD_SIZES", "SIZES", "SMALL", "TABLE", "VARIANTS", "cuda", "make_inputs", "op"]

NAME = "fast_rnn"
SIZES = [{"V": V} for V in (16, 32, 64)]
ODD_SIZES = [{"V": V} for V in (1, 7, 33)]
SMALL = {"V": 64}  # the smallest of several warps
VARIANTS = {
    "": {"query": "softmax", "output": "identity"},
    "softmax output": {"query": "identity", "output": "softmax"},
}


def make_inputs(T, B, H, normal, *, V, query, output):
    """Arguments of the op without reset, in float64. ``normal(*shape)`` draws a tensor."""
    return {
        "z": normal(T, B, H, V),
        "k": normal(T, B, H, V).softmax(-1),
        "v": normal(T, B, H, V),
        "beta": normal(T, B, H).sigmoid(),
        "state": (normal(B, H, V, V) / V**0.5, normal(B, H, V)),
        "query": query,
        "output": output,
    }
