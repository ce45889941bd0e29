"""What an op's description says of its variants."""

import pytest
import torch

from fwp_rl.kernels import OPS, diagonal
from fwp_rl.kernels.samples import make_inputs, variants


def test_variants_are_what_the_op_takes():
    assert {name: len(variants(op)) for name, op in OPS.items()} == {
        "diagonal": 4,  # real or complex, a for each step or one for all
        "fast_lstm": 1,
        "fast_rnn": 4,
        "fast_weight": 6,  # no delta rule without beta
        "fast_weight_channels": 2,  # no delta rule without an erase key, no sum rule with one
        "recurrent_delta": 1,
        "srwm": 1,
    }
    first = next(iter(variants(OPS["fast_weight"]).values()))
    assert first == {"rule": "delta", "beta": True, "log_decay": True}


def test_the_least_is_given_by_default():
    inputs = make_inputs(OPS["fast_weight"], {"T": 5, "B": 3, "H": 2, "K": 4, "V": 7})
    assert inputs["beta"] is not None
    assert inputs["log_decay"] is None
    assert "rule" not in inputs


@pytest.mark.parametrize("wrong", ["x", "a", "state"])
def test_where_forms_are_mixed_the_odd_one_is_named(wrong):
    """Two are of complex numbers, one is of real ones."""
    inputs = {"x": torch.ones(5, 3, 2, 1, 4), "a": torch.ones(2, 1, 4)}
    inputs["state"] = torch.ones(3, 2, 1, 4)
    diagonal(**inputs)
    inputs[wrong] = inputs[wrong][..., 0, :, :]
    message = rf"^{wrong} has shape \(.*1, 4\), expected \[.*2, H, V\] or \[.*H, V\]$"
    with pytest.raises(ValueError, match=message):
        diagonal(**inputs)
