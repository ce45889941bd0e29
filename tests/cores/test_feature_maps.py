from typing import get_args

import pytest
import torch

from fwp_rl.cores.feature_maps import FeatureMap, FeatureMapName, favor_projection

NAMES = get_args(FeatureMapName)
SIZE = 6
every_map = pytest.mark.parametrize("name", NAMES)


@every_map
def test_output_size_is_what_comes_out(name: FeatureMapName) -> None:
    phi = FeatureMap(name, SIZE)
    assert phi(torch.randn(2, 3, SIZE)).shape == (2, 3, phi.output_size)
    assert not list(phi.parameters())


@every_map
def test_vectors_are_normalised(name: FeatureMapName) -> None:
    torch.manual_seed(0)
    y = FeatureMap(name, SIZE)(3 * torch.randn(100, SIZE))
    if name == "identity":
        total = y.square().sum(-1)
    else:
        assert (y >= 0).all()
        total = y.sum(-1)
    # dpfp1 and relu may map a vector to zeros, or close
    assert (total <= 1 + 1e-5).all()
    assert ((total - 1).abs() < 1e-3).float().mean() > 0.9


@every_map
@pytest.mark.parametrize("value", [0.0, -3.0])
def test_zeros_and_negatives_have_finite_values_and_gradients(
    name: FeatureMapName, value: float
) -> None:
    x = torch.full((4, SIZE), value, requires_grad=True)
    y = FeatureMap(name, SIZE)(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert y.isfinite().all()
    assert gradient.isfinite().all()


@every_map
@pytest.mark.parametrize("scale", [30.0, 1000.0])
def test_large_inputs_do_not_overflow(name: FeatureMapName, scale: float) -> None:
    torch.manual_seed(1)
    x = (scale * torch.randn(50, SIZE)).requires_grad_()
    y = FeatureMap(name, SIZE)(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert y.isfinite().all()
    assert y.abs().max() > 0.5  # nor vanish
    assert gradient.isfinite().all()


@every_map
def test_a_vector_does_not_see_its_neighbours(name: FeatureMapName) -> None:
    phi = FeatureMap(name, SIZE)
    x = torch.randn(5, SIZE)
    x[3] *= 50
    torch.testing.assert_close(phi(x), torch.stack([phi(row) for row in x]))


def test_dpfp_by_hand() -> None:
    # z = [1, 0, 0, 2]; z rolled by 1 = [2, 1, 0, 0], by 2 = [0, 2, 1, 0]
    x = torch.tensor([1.0, -2.0])
    torch.testing.assert_close(FeatureMap("dpfp1", 2)(x), torch.tensor([2.0, 0, 0, 0]) / 2.00001)
    assert not FeatureMap("dpfp2", 2)(x)[4:].any()
    # and by 3 = [0, 0, 2, 1]: the only other product is 2 * 1
    expected = torch.zeros(12)
    expected[0] = expected[11] = 2 / 4.00001
    torch.testing.assert_close(FeatureMap("dpfp3", 2)(x), expected)


def test_favor_projection_is_orthogonal_in_blocks() -> None:
    omega = favor_projection(8, 20)
    assert omega.shape == (20, 8)
    for block in (omega[:8], omega[8:16], omega[16:]):
        product = block @ block.T
        torch.testing.assert_close(product, product.diag().diag(), rtol=0, atol=1e-5)
    lengths = favor_projection(8, 800).norm(dim=1)
    assert lengths.square().mean() == pytest.approx(8, rel=0.1)  # chi-squared, 8 degrees
    assert lengths.square().var() == pytest.approx(16, rel=0.3)


def test_favor_features_estimate_the_softmax_kernel() -> None:
    torch.manual_seed(2)
    a, b = 0.4 * torch.randn(2, 8)
    omega = favor_projection(8, 4000)

    def features(x: torch.Tensor) -> torch.Tensor:
        u = omega @ x
        return torch.cat([u, -u]).sub(x @ x / 2).exp().div(float(2 * len(omega)) ** 0.5)

    assert (features(a) @ features(b)).item() == pytest.approx(torch.exp(a @ b).item(), rel=0.05)


def test_favor_projection_comes_from_the_seed_and_is_saved() -> None:
    maps = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        maps.append(FeatureMap("favor", SIZE))
    phi, again, other = maps
    x = torch.randn(3, SIZE)
    assert torch.equal(phi(x), again(x))
    assert not torch.equal(phi(x), other(x))
    other.load_state_dict(phi.state_dict())
    assert torch.equal(phi(x), other(x))
    assert not FeatureMap("elu1", SIZE).state_dict()


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_favor_epsilon_is_added_before_the_sum(scale: float) -> None:
    torch.manual_seed(3)
    phi = FeatureMap("favor", SIZE, epsilon=1e-4).double()
    x = scale * torch.randn(50, SIZE, dtype=torch.float64)
    u = x @ phi.get_buffer("projection").T
    plain = (torch.cat([u, -u], -1) - x.square().sum(-1, keepdim=True) / 2).exp() + 1e-4
    torch.testing.assert_close(phi(x), plain / plain.sum(-1, keepdim=True))
    assert torch.autograd.gradcheck(phi, x[:4].requires_grad_())


def test_favor_epsilon_makes_long_vectors_alike() -> None:
    phi = FeatureMap("favor", SIZE, epsilon=1e-4)
    x = (1000 * torch.randn(50, SIZE)).requires_grad_()
    y = phi(x)
    torch.testing.assert_close(y, torch.full_like(y, 1 / phi.output_size))
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert gradient.isfinite().all()


def test_favor_epsilon_cannot_overflow() -> None:
    """exp(88.8) does in float32; its largest exponent, half a row's length squared, is larger."""
    phi = FeatureMap("favor", 256, epsilon=1e-4)
    x = phi.get_buffer("projection")[:4].clone().requires_grad_()
    assert x.square().sum(-1).max() / 2 > 89
    y = phi(x)
    (gradient,) = torch.autograd.grad(y[:, 0].sum(), x)
    torch.testing.assert_close(y.sum(-1), torch.ones(4))
    assert y.max() > 0.9
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["elu1", "dpfp1", "dpfp2", "dpfp3", "relu"])
def test_without_normalisation(name: FeatureMapName) -> None:
    x = torch.randn(50, SIZE)
    phi = FeatureMap(name, SIZE)
    y = phi.unnormalised(x)
    torch.testing.assert_close(phi(x), y / (y.sum(-1, keepdim=True) + 1e-5))


def test_favor_of_more_rows_without_normalisation_estimates_the_softmax_kernel() -> None:
    torch.manual_seed(2)
    phi = FeatureMap("favor", 8, rows=4000)
    a, b = 0.4 * torch.randn(2, 8)
    assert phi.output_size == phi(a).numel() == 8000
    estimate = phi.unnormalised(a) @ phi.unnormalised(b)
    assert estimate.item() == pytest.approx(torch.exp(a @ b).item(), rel=0.05)
    y = phi.unnormalised(a)
    torch.testing.assert_close(phi(a), y / y.sum())
    phi.redraw()
    assert phi.unnormalised(a).shape == (8000,)
