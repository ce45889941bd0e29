"""What the fused ops keep for their backward pass, in bytes: vectors of every step, no matrix."""

import pytest
import torch

from fwp_rl.kernels import OPS
from fwp_rl.kernels.samples import flat, make_inputs

B, H, D = 3, 2, 16
NUMBERS = {
    "fast_weight": D,  # u
    "recurrent_delta": 4 * D + 1,  # s, q, k, u; beta
    "fast_rnn": 2 * D,  # the query, u
    "fast_lstm": 8 * D,  # the query, the cell; of three gates u and the gate
    "srwm": 6 * D + 8,  # s, q, k, e of the blocks y, q and k; beta and e of four rates
}
"""Kept beside the inputs, per head and step."""


@pytest.mark.parametrize("T", [1, 70])
@pytest.mark.parametrize("name", OPS)
def test_kept_for_the_backward_pass(name, T):
    inputs = make_inputs(OPS[name], {"T": T, "B": B, "H": H, "K": D, "V": D})
    for x in flat(inputs):
        x.requires_grad_(x.is_floating_point())
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        OPS[name].run(**inputs, backend="numba")
    given = {x.data_ptr() for x in flat(inputs)}
    kept = {x.data_ptr(): x.nbytes for x in saved if x.data_ptr() not in given}
    assert sum(kept.values()) == T * B * H * NUMBERS[name] * 4
