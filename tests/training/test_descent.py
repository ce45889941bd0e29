"""A minibatch in shards has the gradient and the metrics of the whole."""

import copy
import dataclasses
from contextlib import closing
from typing import Any

import pytest
import torch
from minibatches import IMPALA, PPO, B, descending, policy_and_rollout, same, step, whole
from torch import nn

from fwp_rl.agents.impala import IMPALAConfig
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.cores import CORES, CoreConfig
from fwp_rl.kernels import use_backend
from fwp_rl.losses import StepLosses
from fwp_rl.training.descent import Descent, cut
from fwp_rl.types import Rollout

SMALL: dict[str, Any] = {
    "layers": 1, "hidden_size": 8, "heads": 2, "head_size": 3, "feedforward_size": 5, "window": 3,
}  # fmt: skip


def small(name: str) -> CoreConfig:
    known = {field.name for field in dataclasses.fields(CORES[name])}
    return CORES[name](**{key: SMALL[key] for key in SMALL.keys() & known})


def check_shards(
    config: PPOConfig | IMPALAConfig, dtype: torch.dtype = torch.float64, relative: float = 1e-9
) -> None:
    """Gradients and weights of one step are those of the whole minibatch by plain autograd, and
    metrics the same, for any number of shards."""
    policy, rollout = policy_and_rollout(config, dtype)
    expected = copy.deepcopy(policy)
    loss = whole(config, expected, rollout)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(expected.parameters(), config.max_gradient_norm)
    assert norm > config.max_gradient_norm
    torch.optim.SGD(expected.parameters(), lr=config.learning_rate).step()
    metrics: dict[str, float] = {}
    for shards in (1, 2, 3, B, B + 1):
        ours = copy.deepcopy(policy)
        with descending(config, ours, gradient_shards=shards) as descend:
            found = step(config, descend, ours, rollout)
        for (name, p), q in zip(ours.named_parameters(), expected.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None), name
            if q.grad is None:
                continue
            assert p.grad is not None
            bound = relative * (q.grad.abs().max() + 1e-3 * config.max_gradient_norm)
            assert (p.grad - q.grad).abs().max() <= bound, (name, shards)
            rounding = 4 * torch.finfo(dtype).eps * q.abs().max()
            assert (p - q).abs().max() <= config.learning_rate * bound + rounding, (name, shards)
        assert found["optimizer/gradient_norm"] == pytest.approx(norm.item(), rel=relative)
        parts = (
            found["loss/policy"]
            + config.value_coefficient * found["loss/value"]
            - config.entropy_coefficient * found["policy/entropy"] * scale(config, rollout)
        )
        assert parts == pytest.approx(loss.item(), rel=10 * relative)
        metrics = metrics or found
        assert found == pytest.approx(metrics, rel=10 * relative)


def scale(config: PPOConfig | IMPALAConfig, rollout: Rollout) -> int:
    """What a mean is to be multiplied with where the loss is a sum."""
    if isinstance(config, IMPALAConfig) and config.reduction == "sum":
        return int(rollout.mask[config.burn_in :].sum())
    return 1


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("agent", [PPO, IMPALA], ids=["ppo", "impala"])
def test_shards_of_every_core_have_the_gradient_of_the_whole(
    agent: PPOConfig | IMPALAConfig, core: str
) -> None:
    config = dataclasses.replace(agent, core=small(core))
    with use_backend("reference"):  # which is compiled for nobody
        check_shards(config)
        check_shards(config, torch.float32, 1e-4)


OPTIONS: dict[str, PPOConfig | IMPALAConfig] = {
    "ppo-burn_in": dataclasses.replace(PPO, burn_in=2),
    "ppo-value_clip": dataclasses.replace(PPO, value_clip=0.1, clip=0.3),
    "ppo-raw-advantages": dataclasses.replace(PPO, normalize_advantages=False, burn_in=3),
    "impala-burn_in": dataclasses.replace(IMPALA, burn_in=3),
    "impala-mean": dataclasses.replace(IMPALA, reduction="mean", burn_in=1),
}


@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS)
def test_shards_with_an_agents_options_have_the_gradient_of_the_whole(
    config: PPOConfig | IMPALAConfig,
) -> None:
    check_shards(config)


@pytest.mark.parametrize("agent", [PPO, IMPALA], ids=["ppo", "impala"])
def test_shards_on_fused_kernels_have_the_gradient_of_the_whole(
    agent: PPOConfig | IMPALAConfig,
) -> None:
    check_shards(dataclasses.replace(agent, core=small("delta_net")), torch.float32, 1e-4)


@pytest.mark.parametrize("agent", [PPO, IMPALA], ids=["ppo", "impala"])
def test_a_minibatch_of_nothing_but_dummies_teaches_nothing(
    agent: PPOConfig | IMPALAConfig,
) -> None:
    for config in (agent, dataclasses.replace(IMPALA, reduction="mean")):
        policy, rollout = policy_and_rollout(config, torch.float64)
        rollout.mask.fill_(False)
        before = copy.deepcopy(policy.state_dict())
        with descending(config, policy, gradient_shards=3) as descend:
            metrics = step(config, descend, policy, rollout)
        assert metrics["optimizer/gradient_norm"] == 0
        assert same(before, policy.state_dict())


def test_a_cut_takes_every_column_once() -> None:
    for columns in range(1, 9):
        for shards in range(1, 12):
            slices = cut(columns, shards)
            assert [n for part in slices for n in range(columns)[part]] == list(range(columns))
            sizes = [part.stop - part.start for part in slices]
            assert len(sizes) == min(shards, columns)
            assert max(sizes) - min(sizes) <= 1


class Half(nn.Module):
    """Gives one parameter a gradient in some columns alone, and another one never."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.sometimes = nn.Parameter(torch.zeros(3))
        self.never = nn.Parameter(torch.ones(3))

    def loss(self, part: slice) -> StepLosses:
        x = torch.arange(4.0)[part]
        loss = self.weight.sum() * x
        if part.start == 2:
            loss = loss + self.sometimes.sum()
        return StepLosses(loss=loss[None], mask=torch.ones(1, len(x), dtype=torch.bool))


def descend_on_half(policy: Any, shards: int) -> None:
    config = dataclasses.replace(PPO, gradient_shards=shards, max_gradient_norm=1e9)
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0, weight_decay=0.1)
    with closing(Descent(config, policy, optimizer, cores=1)) as descend:
        for _ in range(2):  # the second finds what the first has left
            descend(policy.loss, columns=4, divisor=1, step=0)


def test_parameters_without_a_gradient_stay_without() -> None:
    policy = Half()
    descend_on_half(policy, shards=4)
    assert policy.weight.grad is not None
    assert policy.weight.grad.tolist() == [6.0] * 3
    assert policy.sometimes.grad is not None
    assert policy.sometimes.grad.tolist() == [1.0] * 3, "of one shard alone"
    assert policy.never.grad is None
    assert policy.never.tolist() == [1.0] * 3, "no weight decay either"
    descend_on_half(policy, shards=2)
    assert policy.sometimes.grad.tolist() == [2.0] * 3
    descend_on_half(policy, shards=1)
    assert policy.sometimes.grad is None, "nor is the gradient of an earlier step left"
