import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from fwp_rl.models import categorical


def test_frequencies_follow_the_softmax() -> None:
    logits = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0])
    draws = 100_000
    generator = torch.Generator().manual_seed(0)
    action = categorical.sample_action(logits.expand(draws, 5), generator)
    assert action.dtype == torch.int64
    expected = logits.softmax(-1) * draws
    chi_squared = ((action.bincount(minlength=5) - expected).square() / expected).sum()
    assert chi_squared < 18.5  # 4 degrees of freedom: exceeded once in a thousand


def test_sampling_is_reproducible_and_leaves_the_global_generator_alone() -> None:
    logits = torch.randn(7, 3, 6)
    before = torch.get_rng_state()
    first, second = (
        categorical.sample_action(logits, torch.Generator().manual_seed(4)) for _ in range(2)
    )
    assert first.shape == (7, 3)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    other = categorical.sample_action(logits, torch.Generator().manual_seed(5))
    assert not torch.equal(first, other)


def test_impossible_actions_are_not_drawn() -> None:
    logits = torch.tensor([0.0, -math.inf, 0.0, -80.0]).expand(200_000, 4)
    action = categorical.sample_action(logits, torch.Generator().manual_seed(0))
    assert set(action.tolist()) == {0, 2}


def test_greedy_action_is_the_most_probable() -> None:
    logits = torch.tensor([[[0.0, 2.0, 1.0], [5.0, 5.0, -1.0]]])
    assert categorical.greedy_action(logits).tolist() == [[1, 0]]


@pytest.mark.parametrize("scale", [0.1, 1.0, 50.0])
def test_equals_torch_distributions(scale: float) -> None:
    torch.manual_seed(0)
    logits = (scale * torch.randn(4, 3, 6)).requires_grad_()
    other = (scale * torch.randn(4, 3, 6)).requires_grad_()
    action = torch.randint(6, (4, 3))
    # in float64: from probabilities that round to 0 torch makes an infinite divergence
    p, q = Categorical(logits=logits.double()), Categorical(logits=other.double())
    pairs = [
        (categorical.log_prob(logits, action), p.log_prob(action)),
        (categorical.entropy(logits), p.entropy()),
        (categorical.kl_divergence(logits, other), kl_divergence(p, q)),
    ]
    for actual, expected in pairs:
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)
        gradients = [
            torch.autograd.grad(z.sum(), (logits, other), retain_graph=True, materialize_grads=True)
            for z in (actual, expected)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
