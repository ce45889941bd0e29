"""One gradient step: a minibatch in shards has the gradient of the whole, whoever computes it."""

import copy
import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fwp_rl.agents import impala, ppo
from fwp_rl.agents.impala import IMPALAConfig
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.cores import CORES, CoreConfig
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.rnn import GRUConfig
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.kernels import use_backend
from fwp_rl.machine import cpu_threads
from fwp_rl.models.encoders import MLPConfig, NatureCNNConfig
from fwp_rl.models.policy import Policy
from fwp_rl.rl.collector import empty_rollout
from fwp_rl.rl.losses import StepLosses
from fwp_rl.rl.returns import v_trace
from fwp_rl.training.descent import Descent, cut
from fwp_rl.types import Observation, PolicyOutput, Rollout, State

T, B = 7, 5
COMMON: dict[str, Any] = {
    "env": RecallConfig(),
    "encoder": MLPConfig(hidden_sizes=(9,)),
    "core": GRUConfig(hidden_size=6),
    "learning_rate": 0.1,
    "anneal_learning_rate": False,
    "max_gradient_norm": 0.05,  # so small that it clips
}
PPO = PPOConfig(**COMMON, num_envs=B, rollout_length=T, epochs=1, minibatches=1)
IMPALA = IMPALAConfig(**COMMON, num_envs=6, unroll_length=T, batch_size=B)
SMALL: dict[str, Any] = {
    "layers": 1, "hidden_size": 8, "heads": 2, "head_size": 3, "feedforward_size": 5, "window": 3,
}  # fmt: skip


def small(name: str) -> CoreConfig:
    known = {field.name for field in dataclasses.fields(CORES[name])}
    return CORES[name](**{key: SMALL[key] for key in SMALL.keys() & known})


class InFloat64(Policy):
    """A policy that computes in float64 all through."""

    def forward(self, observation: Observation, state: State) -> PolicyOutput:
        features = self.encoder(observation.obs.flatten(0, 1).double())
        features = features.unflatten(0, observation.reset.shape)
        x = torch.cat([features, observation.last_reward.unsqueeze(-1)], dim=-1)
        y, state = self.core(x, state, observation.reset)
        return PolicyOutput(
            logits=self.policy_head(y), value=self.value_head(y).squeeze(-1), state=state
        )


def policy_and_rollout(config: PPOConfig | IMPALAConfig, dtype: torch.dtype, columns: int = B):
    """A policy, and what another one may have played: the first column is nothing but dummies, the
    second has two steps that count, both early."""
    torch.manual_seed(0)
    policy = (InFloat64 if dtype == torch.float64 else Policy)(config, config.env.spec()).to(dtype)
    nn.init.normal_(policy.policy_head.weight)
    image = policy.spec.observation_dtype == "uint8"
    obs_dtype = torch.uint8 if image else torch.float32
    rollout = empty_rollout(policy, columns, T, obs_dtype=obs_dtype, device=torch.device("cpu"))
    observation = rollout.observation
    if image:
        observation.obs.random_(256)
    else:
        observation.obs.normal_()
    observation.reset.copy_(torch.rand(T + 1, columns) < 0.2)
    observation.last_reward.normal_()
    observation.last_action.random_(policy.spec.num_actions)
    rollout.action.random_(policy.spec.num_actions)
    rollout.reward.normal_()
    rollout.terminated.copy_(torch.rand(T, columns) < 0.2)
    rollout.truncated.fill_(False)
    rollout.mask.copy_(torch.rand(T, columns) < 0.8)
    rollout.mask[:, 0] = False
    rollout.mask[:, 1] = False
    rollout.mask[2:4, 1] = True
    rollout.behaviour_logits.normal_()
    rollout.value.normal_()

    def cast(x: Tensor) -> Tensor:
        return x.to(dtype) if x.is_floating_point() else x

    rollout = rollout.map(cast, state=cast)
    rollout.observation.obs = observation.obs
    with torch.no_grad():  # a state that the core can be in
        rollout.initial_state = policy(rollout.observation, rollout.initial_state).state
    return policy, rollout


def targets(rollout: Rollout) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape, dtype = rollout.reward.shape, rollout.reward.dtype
    target, advantage = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    return target, advantage


def replayed(
    config: PPOConfig | IMPALAConfig, policy: Policy, rollout: Rollout, stop: int
) -> PolicyOutput:
    state, start = rollout.initial_state, config.burn_in
    if start:
        with torch.no_grad():
            state = policy(rollout.observation.map(lambda x: x[:start]), state).state
    return policy(rollout.observation.map(lambda x: x[start:stop]), state)


def whole(config: PPOConfig | IMPALAConfig, policy: Policy, rollout: Rollout) -> Tensor:
    """The loss of the whole minibatch: only the steps that count are ever touched."""
    start = config.burn_in
    kept = rollout.mask[start:]
    output = replayed(config, policy, rollout, T if isinstance(config, PPOConfig) else T + 1)
    log_p = output.logits[: T - start].log_softmax(-1)
    log_q = rollout.behaviour_logits[start:].log_softmax(-1)
    action = rollout.action[start:, :, None]
    log_pi, log_mu = (x.gather(-1, action).squeeze(-1) for x in (log_p, log_q))
    entropy = -(log_p.exp() * log_p).sum(-1)[kept]
    if isinstance(config, PPOConfig):
        target, advantage = (x[start:][kept] for x in targets(rollout))
        if config.normalize_advantages:
            advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
        ratio = (log_pi - log_mu)[kept].exp()
        limited = ratio.clamp(1 - config.clip, 1 + config.clip)
        gain = torch.minimum(ratio * advantage, limited * advantage)
        value = output.value[kept]
        error = (value - target) ** 2
        if config.value_clip is not None:
            old = rollout.value[start:][kept]
            moved = old + (value - old).clamp(-config.value_clip, config.value_clip)
            error = torch.maximum(error, (moved - target) ** 2)
        reduce: Callable[[Tensor], Tensor] = torch.mean
    else:
        target, advantage = v_trace(
            (log_pi - log_mu).detach().masked_fill(~kept, 0),
            rollout.reward[start:].clamp(-1, 1),
            config.discount * ~rollout.terminated[start:],
            output.value.detach(),
            kept,
        )
        gain = (advantage * log_pi)[kept]
        error = (output.value[:-1] - target)[kept] ** 2
        reduce = torch.sum if config.reduction == "sum" else torch.mean
    return (
        -reduce(gain)
        + config.value_coefficient * reduce(error) / 2
        - config.entropy_coefficient * reduce(entropy)
    )


@contextmanager
def descending(
    config: PPOConfig | IMPALAConfig, policy: Policy, **changes: Any
) -> Iterator[Descent]:
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    with closing(Descent(dataclasses.replace(config, **changes), policy, optimizer, cores=1)) as it:
        yield it


def step(
    config: PPOConfig | IMPALAConfig, descend: Descent, policy: Policy, rollout: Rollout
) -> dict[str, float]:
    """One gradient step as the agent takes it."""
    if isinstance(config, IMPALAConfig):
        return impala._update(config, policy, descend, rollout, {}, step=0)
    draws = torch.Generator().manual_seed(0)
    return ppo._update(config, policy, descend, rollout, *targets(rollout), generator=draws, step=0)


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
            assert (p - q).abs().max() <= config.learning_rate * bound + 1e-15, (name, shards)
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


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("agent", [PPO, IMPALA], ids=["ppo", "impala"])
def test_any_number_of_threads_has_the_same_bits(agent: PPOConfig | IMPALAConfig) -> None:
    """Convolutions and matrices so large that OpenMP would divide them among its threads."""
    config = dataclasses.replace(
        agent,
        env=AtariConfig(game="Pong"),
        encoder=NatureCNNConfig(features=128),
        core=DeltaNetConfig(layers=1),
        gradient_shards=4,
    )
    policy, rollout = policy_and_rollout(config, torch.float32)
    found = []
    for threads, openmp in ((1, 1), (2, 1), (3, 2), (1, 3)):
        ours = copy.deepcopy(policy)
        optimizer = torch.optim.Adam(ours.parameters(), fused=True)
        settings = dataclasses.replace(config, learner_threads=threads)
        with (
            cpu_threads(openmp),
            closing(Descent(settings, ours, optimizer, cores=1)) as descend,
        ):
            metrics = [step(config, descend, ours, rollout) for _ in range(2)]
            assert torch.get_num_threads() == openmp
        found.append((ours.state_dict(), metrics))
    for weights, metrics in found[1:]:
        assert same(weights, found[0][0])
        assert metrics == found[0][1]


class Half(nn.Module):
    """Gives one parameter a gradient in some columns alone, and another one never."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.sometimes = nn.Parameter(torch.zeros(3))
        self.never = nn.Parameter(torch.ones(3))

    @property
    def value_head(self) -> nn.Module:
        """Where a policy's device is asked of."""
        return self

    def loss(self, part: slice) -> StepLosses:
        x = torch.arange(4.0)[part]
        loss = self.weight.sum() * x
        if part.start == 2:
            loss = loss + self.sometimes.sum()
        return StepLosses(loss=loss[None], mask=torch.ones(1, len(x), dtype=torch.bool))


def descend_on_half(policy: Any, shards: int) -> None:
    config = dataclasses.replace(PPO, gradient_shards=shards, max_gradient_norm=1e9)
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0, weight_decay=0.1)
    _, rollout = policy_and_rollout(PPO, torch.float32)
    with closing(Descent(config, policy, optimizer, cores=1)) as descend:
        for _ in range(2):  # the second finds what the first has left
            descend(policy.loss, rollout=rollout, columns=4, divisor=1, step=0)


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


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("failure", ["nan", "raised"])
def test_whatever_fails_leaves_the_weights_untouched(
    failure: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, rollout = policy_and_rollout(PPO, torch.float32)
    before = copy.deepcopy(policy.state_dict())
    honest, calls = ppo.ppo_loss, threading.Semaphore(2)

    def planted(*args: Any) -> StepLosses:
        losses = honest(*args)
        if not calls.acquire(blocking=False):  # the third call, whichever thread's it is
            if failure == "raised":
                raise ZeroDivisionError("planted")
            losses.loss = losses.loss * torch.inf
        return losses

    kind = FloatingPointError if failure == "nan" else ZeroDivisionError
    config = dataclasses.replace(PPO, gradient_shards=4, learner_threads=threads)
    with descending(config, policy) as descend:
        with monkeypatch.context() as patch:
            patch.setattr(ppo, "ppo_loss", planted)
            with pytest.raises(kind, match=r"planted|weights are untouched"):
                step(config, descend, policy, rollout)
        assert same(before, policy.state_dict())
        step(config, descend, policy, rollout)
        ours = policy.state_dict()
    fresh, _ = policy_and_rollout(PPO, torch.float32)
    with descending(config, fresh) as descend:
        step(config, descend, fresh, rollout)
    assert same(ours, fresh.state_dict()), "nothing of the failed step is left in the next"
    assert not [t for t in threading.enumerate() if t.name.startswith("learner-")]


@pytest.mark.parametrize("threads", [1, 3])
def test_all_shards_of_a_step_see_one_projection(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = DeltaNetConfig(
        layers=1, hidden_size=8, heads=2, feature_map="favor", redraw_projection=True
    )
    config = dataclasses.replace(PPO, core=core, burn_in=2)
    policy, rollout = policy_and_rollout(config, torch.float32)
    fixed = dataclasses.replace(config, core=dataclasses.replace(core, redraw_projection=False))
    honest, seen = ppo.ppo_loss, []

    def watched(*args: Any) -> StepLosses:
        losses = honest(*args)
        seen.append([x.clone() for x in policy.buffers()])
        return losses

    monkeypatch.setattr(ppo, "ppo_loss", watched)
    before = [x.clone() for x in policy.buffers()]
    with descending(config, policy, gradient_shards=4, learner_threads=threads) as descend:
        for _ in range(2):
            seen.clear()
            expected = copy.deepcopy(policy)
            step(config, descend, policy, rollout)
            (drawn,) = seen[0]
            assert len(seen) == 4
            assert all(torch.equal(drawn, other) for (other,) in seen)
            assert not torch.equal(drawn, before[0])
            before = [drawn]
            # the gradient is that of this one projection, burn-in included
            core_alone = Policy(fixed, config.env.spec())
            core_alone.load_state_dict(expected.state_dict())
            for buffer in core_alone.buffers():
                buffer.copy_(drawn)
            whole(fixed, core_alone, rollout).backward()
            nn.utils.clip_grad_norm_(core_alone.parameters(), config.max_gradient_norm)
            for p, q in zip(policy.parameters(), core_alone.parameters(), strict=True):
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)
    before = [x.clone() for x in policy.buffers()]
    replayed(config, policy, rollout, T)
    assert not torch.equal(before[0], next(policy.buffers())), "other calls draw as ever"
