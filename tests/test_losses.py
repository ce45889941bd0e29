import numpy as np
import torch

from fwp_rl.losses import explained_variance, masked_mean, normalize


def test_masked_mean_is_the_mean_of_the_kept_entries() -> None:
    x = torch.tensor([[1.0, torch.nan], [3.0, torch.inf]])
    mask = torch.tensor([[True, False], [True, False]])
    assert masked_mean(x, mask).item() == 2
    assert masked_mean(x, torch.zeros_like(mask)).item() == 0


def test_normalize_uses_the_kept_entries_alone() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(3, 5, size=(20, 4)))
    mask = torch.from_numpy(rng.random((20, 4)) < 0.7)
    kept = normalize(x, mask)[mask]
    assert abs(kept.mean()) < 1e-9
    assert abs(kept.std(correction=0) - 1) < 1e-6
    changed = torch.where(mask, x, x + 1000)
    torch.testing.assert_close(normalize(changed, mask)[mask], kept)


def test_normalize_makes_one_entry_and_equal_entries_zero() -> None:
    x = torch.tensor([[3.0, torch.inf], [3.0, 5.0]])
    for mask in ([[True, False], [False, False]], [[True, False], [True, False]]):
        kept = torch.tensor(mask)
        assert normalize(x, kept)[kept].eq(0).all()


def test_explained_variance() -> None:
    target = torch.tensor([[1.0], [2.0], [4.0], [100.0]])
    mask = torch.tensor([[True], [True], [True], [False]])
    assert explained_variance(target, target, mask).item() == 1
    assert abs(explained_variance(torch.zeros_like(target), target, mask).item()) < 1e-6
    assert explained_variance(target, torch.ones_like(target), mask).isnan()
