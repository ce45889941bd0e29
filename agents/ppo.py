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

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from fwp_rl.config import ConfigError, Range
from fwp_rl.cores import recording
from fwp_rl.losses import StepLosses, explained_variance, normalize
from fwp_rl.models.categorical import entropy, kl_divergence, log_prob
from fwp_rl.models.policy import Policy
from fwp_rl.rl.collector import Actor, Collector
from fwp_rl.rl.pulse import Pulse
from fwp_rl.rl.replay import check_ratio, core_metrics, minibatches, replay, select_columns
from fwp_rl.rl.returns import gae
from fwp_rl.runs.config import AGENTS, TrainConfig
from fwp_rl.training.descent import Descent, numbers
from fwp_rl.training.optim import advice, annealed
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
    """Discount gamma of a step."""
    gae_lambda: Annotated[float, Range(0, 1)] = 0.95
    """Lambda of generalised advantage estimation."""
    clip: Annotated[float, Range(0, 1, above=True)] = 0.1
    """PPO's clip range: how far the probability ratio may leave 1 before its gradient is cut."""
    value_clip: Annotated[float | None, Range(0, above=True)] = None
    """Limit on how far a value may move per update in the value loss; none: no limit."""
    value_coefficient: Annotated[float, Range(0)] = 0.5
    """Weight of the value loss."""
    entropy_coefficient: Annotated[float, Range(0)] = 0.01
    """Weight of the entropy, which the loss rewards."""
    max_gradient_norm: Annotated[float, Range(0, above=True)] = 0.5
    """Gradients are scaled down to this global norm."""
    normalize_advantages: bool = True
    """Shift and scale advantages to mean 0 and standard deviation 1 in each minibatch."""
    target_kl: Annotated[float | None, Range(0, above=True)] = None
    """Leave the remaining epochs out once the policy has moved this far (nats); none: never."""

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

    def learning_rate_at(self, step: int) -> float:
        return annealed(self, step)

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
        descend = session.closing(
            Descent(config, policy, optimizer, cores=torch.get_num_threads(), tell=session.tell),
            "the learner's threads",
        )
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
            with session.stopwatch("learning"):
                metrics = _update(
                    config,
                    policy,
                    descend,
                    rollout,
                    value_target,
                    advantage,
                    generator=minibatch_draws,
                    step=session.step,
                )

            # record: the log, and a checkpoint when its time has come
            check_ratio(metrics["policy/ratio_deviation"], policy, session.warn_once)
            explained = explained_variance(rollout.value, value_target, rollout.mask)
            also = {"steps": rollout.mask.sum(), "value/explained_variance": explained}
            metrics |= numbers(also | (core_metrics(records) if session.logs_next else {}))
            session.log(int(metrics.pop("steps")), games, metrics)
            session.save_if_due()
        session.save()
    return session.path


def _update(
    config: PPOConfig,
    policy: Policy,
    descend: Descent,
    rollout: Rollout,
    value_target: Tensor,
    advantage: Tensor,
    *,
    generator: torch.Generator,
    step: int,
) -> dict[str, float]:
    """Epochs × minibatches gradient steps on one rollout; returns means of the metrics."""
    history: list[dict[str, float]] = []
    device = rollout.action.device
    for _ in range(config.epochs):
        for columns in minibatches(config.num_envs, config.minibatches, generator, device):
            history.append(
                _step(config, policy, descend, rollout, value_target, advantage, columns, step)
            )
        if config.target_kl is not None:
            latest = [metrics["policy/kl"] for metrics in history[-config.minibatches :]]
            if sum(latest) / len(latest) > config.target_kl:
                break
    means = {name: sum(m[name] for m in history) / len(history) for name in history[0]}
    # only the first minibatch is seen by the very weights that acted
    means["policy/ratio_deviation"] = history[0]["policy/ratio_deviation"]
    means["policy/epochs"] = len(history) / config.minibatches
    return means


def _step(
    config: PPOConfig,
    policy: Policy,
    descend: Descent,
    rollout: Rollout,
    value_target: Tensor,
    advantage: Tensor,
    columns: Tensor,
    step: int,
) -> dict[str, float]:
    """One gradient step on the minibatch of these environments; returns its metrics."""
    # what is of the whole minibatch comes before it is cut into shards
    counted = rollout.mask[:, columns].clone()
    counted[: config.burn_in] = False
    chosen = advantage[:, columns]
    if config.normalize_advantages:
        chosen = normalize(chosen, counted)

    def loss(part: slice) -> StepLosses:
        own = columns[part]
        return ppo_loss(
            config, policy, select_columns(rollout, own), value_target[:, own], chosen[:, part]
        )

    return descend(
        loss,
        columns=len(columns),
        divisor=counted.sum(),
        step=step,
        advise=lambda: advice(policy, rollout),
    )


def ppo_loss(
    config: PPOConfig,
    policy: Policy,
    rollout: Rollout,
    value_target: Tensor,
    advantage: Tensor,
) -> StepLosses:
    """The clipped surrogate, value and entropy loss of each step of some environments.

    value_target, advantage  [T, B]; the advantage as the loss takes it, normalised or not
    """
    steps = slice(config.burn_in, None)
    output = replay(policy, rollout, start=config.burn_in, stop=len(rollout.action))
    mask, action = rollout.mask[steps], rollout.action[steps]
    behaviour_logits = rollout.behaviour_logits[steps]
    # zeros, for masking the loss alone would let a NaN at a dummy step through to the gradient
    target, advantage = (x[steps].masked_fill(~mask, 0) for x in (value_target, advantage))

    # policy loss
    log_ratio = log_prob(output.logits, action) - log_prob(behaviour_logits, action)
    # a dummy step's action was never played: its ratio must not enter, not even as inf · 0
    ratio = torch.where(mask, log_ratio, torch.zeros_like(log_ratio)).exp()
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
    policy_loss = torch.maximum(-advantage * ratio, -advantage * clipped)

    # value loss
    error = (output.value - target) ** 2
    if config.value_clip is not None:
        old = rollout.value[steps].masked_fill(~mask, 0)
        moved = old + (output.value - old).clamp(-config.value_clip, config.value_clip)
        error = torch.maximum(error, (moved - target) ** 2)
    value_loss = 0.5 * error

    # entropy, and the sum of the three
    policy_entropy = entropy(output.logits)
    loss = (
        policy_loss
        + config.value_coefficient * value_loss
        - config.entropy_coefficient * policy_entropy
    )
    with torch.no_grad():
        return StepLosses(
            loss=loss,
            mask=mask,
            parts={"loss/policy": policy_loss, "loss/value": value_loss},
            means={
                "policy/entropy": policy_entropy,
                "policy/kl": kl_divergence(behaviour_logits, output.logits),
                "policy/clip_fraction": (ratio != clipped).float(),
            },
            maxima={"policy/ratio_deviation": (ratio - 1).abs()},
        )
