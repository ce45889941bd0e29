"""Minibatches with awkward dummies, gradient steps on them as agents take them, and the loss of the
whole."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fwp_rl.agents import impala, ppo
from fwp_rl.agents.impala import IMPALAConfig
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.cores.rnn import GRUConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.models.encoders import MLPConfig
from fwp_rl.models.policy import Policy
from fwp_rl.rl.collector import empty_rollout
from fwp_rl.rl.returns import v_trace
from fwp_rl.training.descent import Descent
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
        return impala._update(config, policy, descend, rollout, step=0, log=False)
    draws = torch.Generator().manual_seed(0)
    return ppo._update(config, policy, descend, rollout, *targets(rollout), generator=draws, step=0)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)
