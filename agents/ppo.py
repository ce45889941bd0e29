"""Recurrent PPO.

"Proximal Policy Optimization Algorithms" (Schulman et al. 2017) for policies with memory:
minibatches are whole environments, each replayed from the core state that was stored at
the start of its rollout, with resets inside the sequence.

One iteration: collect a rollout, bootstrap the value of what comes next, estimate advantages,
then take epochs × minibatches gradient steps on

    L = E[max(−A ρ, −A clip(ρ, 1 ± ε))] + c_v E[(v − target)²] / 2 − c_e E[H(π)],
    ρ = π(a|s) / π_behaviour(a|s)

where every mean runs over the steps that the environment did not ignore.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from fwp_rl.config import ConfigError, Range
from fwp_rl.cores import recording
from fwp_rl.models.categorical import entropy, kl_divergence, log_prob
from fwp_rl.models.policy import Policy
from fwp_rl.rl.collector import Actor, Collector
from fwp_rl.rl.losses import explained_variance, masked_mean, normalize
from fwp_rl.rl.pulse import Pulse
from fwp_rl.rl.replay import check_ratio, core_metrics, replay, select_columns
from fwp_rl.rl.returns import gae
from fwp_rl.runs.config import AGENTS, TrainConfig
from fwp_rl.training.optim import clip_gradients, linear_to_zero, set_learning_rate
from fwp_rl.training.session import TrainingSession
from fwp_rl.types import Rollout

__all__ = ["PPOConfig", "ppo_loss", "train"]


@AGENTS.register("ppo")
@dataclass(frozen=True, kw_only=True)
class PPOConfig(TrainConfig):
    """Recurrent PPO over environments that are stepped together."""

    rollout_length: Annotated[int, Range(1)] = 128
    """Steps of every environment between two updates; also the span of backpropagation through
    time."""
    epochs: Annotated[int, Range(1)] = 4
    """Passes over each rollout."""
    minibatches: Annotated[int, Range(1)] = 4
    """Gradient steps per pass; each takes num_envs / minibatches environments."""
    burn_in: Annotated[int, Range(0)] = 0
    """First steps of each rollout that only bring the stored core state up to date with the
    present weights: they get no gradient and are left out of the loss. Rollouts do not overlap, so
    that nothing is ever learned from these steps."""
    learning_rate: Annotated[float, Range(0, 1, above=True)] = 2.5e-4
    """Adam's learning rate."""
    adam_epsilon: Annotated[float, Range(0, 1, above=True)] = 1e-5
    """Adam's epsilon."""
    anneal_learning_rate: bool = True
    """Take the learning rate linearly to 0 at total_steps."""
    discount: Annotated[float, Range(0, 1)] = 0.99
    """γ."""
    gae_lambda: Annotated[float, Range(0, 1)] = 0.95
    """λ of generalised advantage estimation."""
    clip: Annotated[float, Range(0, 1, above=True)] = 0.1
    """ε: how far the probability ratio may leave 1 before its gradient is cut."""
    value_clip: Annotated[float | None, Range(0, above=True)] = None
    """Limit on how far a value may move per update in the value loss; none clips nothing."""
    value_coefficient: Annotated[float, Range(0)] = 0.5
    """c_v."""
    entropy_coefficient: Annotated[float, Range(0)] = 0.01
    """c_e."""
    max_gradient_norm: Annotated[float, Range(0, above=True)] = 0.5
    """Gradients are scaled down to this global norm."""
    normalize_advantages: bool = True
    """Shift and scale advantages to mean 0 and standard deviation 1 in each minibatch."""
    target_kl: Annotated[float | None, Range(0, above=True)] = None
    """Leave the remaining epochs out once the policy has moved this far (nats); none never does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_envs % self.minibatches:
            raise ConfigError(
                f"minibatches: got {self.minibatches}, expected a divisor of "
                f"num_envs = {self.num_envs}: a minibatch is a set of whole environments"
            )
        if self.burn_in >= self.rollout_length:
            raise ConfigError(
                f"burn_in: got {self.burn_in}, expected less than "
                f"rollout_length = {self.rollout_length}"
            )
        counted = (self.rollout_length - self.burn_in) * self.num_envs // self.minibatches
        if self.normalize_advantages and counted < 2:
            raise ConfigError(
                "minibatches: one step after burn_in is left in each, whose advantage, normalised, "
                "is 0 and teaches the policy nothing; expected 2 or more, better 16: take fewer "
                "minibatches, a longer rollout, or normalize_advantages false"
            )

    def train(self, *, resume: Path | None = None) -> Path:
        return train(self, resume=resume)


def train(config: PPOConfig, *, resume: Path | None = None) -> Path:
    """Train to ``config.total_steps``; returns the run directory.

    ``resume`` continues that run directory from its newest good checkpoint. Ctrl-C and SIGTERM
    save a checkpoint before they take effect, and so does an environment that fails or hangs.
    """
    with TrainingSession(config, resume=resume) as session:
        policy = Policy(config, config.env.spec()).to(session.device)
        optimizer = torch.optim.Adam(
            policy.parameters(), lr=config.learning_rate, eps=config.adam_epsilon, fused=True
        )
        action_draws = session.generator("action", session.device)
        minibatch_draws = session.generator("minibatch")
        session.begin(policy, optimizer)
        with session.playing():
            seeds = session.env_seeds(config.num_envs)
            env = session.closing(config.env.make(config.num_envs, seeds))
            actor = Actor(
                policy,
                env,
                generator=action_draws,
                stopwatch=session.stopwatch,
                pulse=session.watch(Pulse("the environments", session.poll)),
            )
        collector = Collector(actor, config.rollout_length)

        while session.step < config.total_steps:
            # act: T steps of every environment
            with session.playing():
                rollout, games = collector.collect()

            # bootstrap: the value of what comes next, and from it targets and advantages
            with recording() as records:
                bootstrap_value = actor.bootstrap_value()
            value = torch.cat([rollout.value, bootstrap_value[None]])
            value_target, advantage = gae(
                policy.clip_reward(rollout.reward),
                config.discount * (~rollout.terminated),
                value,
                rollout.mask,
                lam=config.gae_lambda,
            )

            # learn: epochs × minibatches gradient steps
            learning_rate = config.learning_rate
            if config.anneal_learning_rate:
                learning_rate = linear_to_zero(learning_rate, session.step, config.total_steps)
            set_learning_rate(optimizer, learning_rate)
            with session.stopwatch("learning"):
                metrics = _update(
                    config,
                    policy,
                    optimizer,
                    rollout,
                    value_target,
                    advantage,
                    minibatch_draws,
                )

            # record: the log, and a checkpoint when its time has come
            check_ratio(metrics["policy/ratio_deviation"], policy, session.warn_once)
            metrics |= core_metrics(records)
            metrics["optimizer/learning_rate"] = learning_rate
            metrics["value/explained_variance"] = explained_variance(
                rollout.value, value_target, rollout.mask
            ).item()
            session.log(int(rollout.mask.sum()), games, metrics)
            session.save_if_due()
        session.save()
    return session.path


def _update(
    config: PPOConfig,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    value_target: Tensor,
    advantage: Tensor,
    generator: torch.Generator,
) -> dict[str, float]:
    """Epochs × minibatches gradient steps on one rollout; returns means of the metrics."""
    history: list[dict[str, Tensor]] = []
    ratio_deviation = torch.zeros(())
    for _ in range(config.epochs):
        for columns in _minibatches(config, rollout, generator):
            loss, metrics = ppo_loss(
                config,
                policy,
                select_columns(rollout, columns),
                value_target[:, columns],
                advantage[:, columns],
            )
            optimizer.zero_grad()
            loss.backward()
            metrics["optimizer/gradient_norm"] = clip_gradients(
                policy, config.max_gradient_norm, rollout
            )
            optimizer.step()
            if not history:
                ratio_deviation = metrics["policy/ratio_deviation"]
            history.append(metrics)
        if config.target_kl is not None:
            latest = torch.stack([m["policy/kl"] for m in history[-config.minibatches :]]).mean()
            if latest > config.target_kl:
                break
    means = {name: torch.stack([m[name] for m in history]).mean().item() for name in history[0]}
    # only the first minibatch is seen by the very weights that acted
    means["policy/ratio_deviation"] = ratio_deviation.item()
    means["policy/epochs"] = len(history) / config.minibatches
    return means


def _minibatches(
    config: PPOConfig, rollout: Rollout, generator: torch.Generator
) -> Iterator[Tensor]:
    device = rollout.action.device
    order = torch.randperm(config.num_envs, generator=generator).to(device)
    yield from order.split(config.num_envs // config.minibatches)


def ppo_loss(
    config: PPOConfig,
    policy: Policy,
    rollout: Rollout,
    value_target: Tensor,
    advantage: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped surrogate, value and entropy loss of some environments.

    value_target, advantage  [T, B]
    returns the scalar loss, and metrics without gradient
    """
    steps = slice(config.burn_in, None)
    output = replay(policy, rollout, start=config.burn_in, stop=len(rollout.action))
    mask, action = rollout.mask[steps], rollout.action[steps]
    behaviour_logits = rollout.behaviour_logits[steps]
    # zeros, for masking the loss alone would let a NaN at a dummy step through to the gradient
    target, advantage = (x[steps].masked_fill(~mask, 0) for x in (value_target, advantage))
    if config.normalize_advantages:
        advantage = normalize(advantage, mask)

    # policy loss
    log_ratio = log_prob(output.logits, action) - log_prob(behaviour_logits, action)
    # a dummy step's action was never played: its ratio must not enter, not even as inf · 0
    ratio = torch.where(mask, log_ratio, torch.zeros_like(log_ratio)).exp()
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
    policy_loss = masked_mean(torch.maximum(-advantage * ratio, -advantage * clipped), mask)

    # value loss
    error = (output.value - target) ** 2
    if config.value_clip is not None:
        old = rollout.value[steps].masked_fill(~mask, 0)
        moved = old + (output.value - old).clamp(-config.value_clip, config.value_clip)
        error = torch.maximum(error, (moved - target) ** 2)
    value_loss = 0.5 * masked_mean(error, mask)

    # entropy, and the sum of the three
    mean_entropy = masked_mean(entropy(output.logits), mask)
    loss = (
        policy_loss
        + config.value_coefficient * value_loss
        - config.entropy_coefficient * mean_entropy
    )
    with torch.no_grad():
        metrics = {
            "loss/policy": policy_loss.detach(),
            "loss/value": value_loss.detach(),
            "policy/entropy": mean_entropy.detach(),
            "policy/kl": masked_mean(kl_divergence(behaviour_logits, output.logits), mask),
            "policy/clip_fraction": masked_mean((ratio != clipped).float(), mask),
            "policy/ratio_deviation": (ratio - 1).abs().max(),
        }
    return loss, metrics
