"""Rollouts as a whole: no tensor of theirs is forgotten, whatever is done to all of them. And what
is measured and told of a replay."""

from dataclasses import fields
from typing import Literal

import pytest
import torch
from torch import Tensor

from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.models import MLPConfig, Policy, PolicyConfig
from fwp_rl.rl.replay import check_ratio, copy_columns, core_metrics, select_columns
from fwp_rl.types import Observation, Rollout

T, B = 3, 5


def rollout(offset: int = 0) -> Rollout:
    """Every entry says which tensor, which step and which column it is of."""
    count = iter(range(100))

    def made(steps: int, *shape: int) -> Tensor:
        entry = torch.arange(steps)[:, None] * 10 + torch.arange(B) + 1000 * next(count) + offset
        return entry.reshape(steps, B, *[1] * len(shape)).expand(steps, B, *shape).clone()

    return Rollout(
        observation=Observation(**{f.name: made(T + 1) for f in fields(Observation)}),
        initial_state=(made(1, 2)[0], made(1, 4, 2)[0]),
        **{
            f.name: made(T)
            for f in fields(Rollout)
            if f.name not in ("observation", "initial_state", "extras")
        },
        extras={"target": made(T), "vector": made(T, 3)},
    )


def all_tensors(value: object) -> list[Tensor]:
    """By walking through the fields, without the methods under test."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple):
        return [tensor for item in value for tensor in all_tensors(item)]
    if isinstance(value, dict):
        return all_tensors(tuple(value.values()))
    return [t for f in fields(value) for t in all_tensors(getattr(value, f.name))]  # type: ignore[arg-type]  # a dataclass


def test_map_meets_every_tensor_once_and_keeps_its_place() -> None:
    before = rollout()
    seen: list[Tensor] = []

    def time_major(tensor: Tensor) -> Tensor:
        assert tensor.shape[:2] in ((T, B), (T + 1, B))
        seen.append(tensor)
        return tensor + 1

    def leaf(tensor: Tensor) -> Tensor:
        assert tensor.shape[0] == B
        seen.append(tensor)
        return tensor + 1

    after = before.map(time_major, state=leaf)
    assert {id(t) for t in seen} == {id(t) for t in all_tensors(before)}
    assert len(seen) == len(all_tensors(before)) == len(before.tensors())
    assert {id(t) for t in before.tensors()} == {id(t) for t in seen}
    for old, new in zip(all_tensors(before), all_tensors(after), strict=True):
        assert torch.equal(new, old + 1)


def test_more_extras_leave_the_rollout_as_it_was() -> None:
    before = rollout()
    after = before.with_extras(weight=torch.ones(T, B))
    assert list(before.extras) == ["target", "vector"]
    assert list(after.extras) == ["target", "vector", "weight"]
    assert after.extras["target"] is before.extras["target"]
    assert select_columns(after, slice(1, 3)).extras["weight"].shape == (T, 2)


def test_columns_are_selected_in_the_order_asked_for() -> None:
    whole, columns = rollout(), torch.tensor([4, 1])
    some = select_columns(whole, columns)
    for old, new in zip(all_tensors(whole), all_tensors(some), strict=True):
        time_major = old.shape[0] in (T, T + 1)
        assert torch.equal(new, old[:, columns] if time_major else old[columns])


def test_columns_are_copied_over_those_columns_and_no_others() -> None:
    source, target, untouched = rollout(), rollout(50_000), rollout(50_000)
    copy_columns(source, slice(1, 3), target, slice(3, 5))
    places = zip(*map(all_tensors, (source, target, untouched)), strict=True)
    for theirs, ours, before in places:
        batch = 1 if ours.shape[0] in (T, T + 1) else 0
        copied = torch.cat([before.narrow(batch, 0, 3), theirs.narrow(batch, 1, 2)], batch)
        assert torch.equal(ours, copied)


@pytest.mark.parametrize(("precision", "bound"), [("float32", 0.001), ("bfloat16", 0.1)])
def test_a_ratio_is_told_of_above_what_rounding_explains(
    precision: Literal["float32", "bfloat16"], bound: float
) -> None:
    config = PolicyConfig(encoder=MLPConfig(), core=FeedforwardConfig(), precision=precision)
    policy = Policy(config, RecallConfig().spec())
    told: list[str] = []
    check_ratio(0.99 * bound, policy, told.append)
    assert told == []
    check_ratio(1.01 * bound, policy, told.append)
    assert f"policy/ratio_deviation is above {bound}" in told[0]


def test_one_beta_alone_has_a_spread_of_nothing() -> None:
    metrics = core_metrics({"beta": [torch.full((1, 1), 0.25)]})
    assert metrics == {"core/beta_mean": 0.25, "core/beta_std": 0.0}
