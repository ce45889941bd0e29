"""Parcels: what is sent is what arrives, and stays."""

import torch

from fwp_rl.rl.transfer import Parcel, copy_all


def tensors(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(3, generator=generator) > 0.5,
        torch.randn(3, generator=generator),
        torch.randint(99, (3,), generator=generator),
        torch.randint(256, (3, 5, 7), generator=generator, dtype=torch.uint8),
        torch.randn((), generator=generator, dtype=torch.float64),
    ]


def test_a_parcel_arrives_whole_and_the_next_one_leaves_it_alone() -> None:
    parcel = Parcel(tensors(0), torch.device("cpu"))
    sent = [parcel.send(tensors(seed)) for seed in range(3)]
    for seed, arrived in enumerate(sent):
        for actual, expected in zip(arrived, tensors(seed), strict=True):
            assert actual.dtype == expected.dtype
            assert torch.equal(actual, expected)


def test_a_parcel_is_one_tensor_on_its_way() -> None:
    arrived = Parcel(tensors(0), torch.device("meta")).send(tensors(0))
    assert len({x.untyped_storage()._cdata for x in arrived}) == 1
    assert [x.shape for x in arrived] == [x.shape for x in tensors(0)]


def test_copies_of_all_kinds_of_tensors_at_once() -> None:
    targets = [torch.zeros_like(x) for x in tensors(0)]
    copy_all(tensors(1), targets)
    assert all(torch.equal(x, y) for x, y in zip(targets, tensors(1), strict=True))
    copy_all(targets, [x.to("meta") for x in targets])  # another device
