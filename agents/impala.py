"""IMPALA: actors that play while the learner learns, and V-trace for what they played meanwhile.

Espeholt et al., "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner
Architectures" (2018), for policies with memory: a batch is whole environments, each
replayed from the core state that its actor stored at the start of the unroll.

One update: take a batch of finished unrolls, run the present policy π over its T + 1 observations,
correct for the policy μ that acted by V-trace, take one gradient step on

    L = R[−A log π(a|s)] + c_v R[(v − vs)²] / 2 − c_e R[H(π)]

where vs and A are V-trace's targets and advantages, and R sums (or averages) over the steps that
the environment did not ignore; then publish the weights to the actors.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor

from fwp_rl.config import ConfigError, Range
from fwp_rl.cores import recording
from fwp_rl.losses import StepLosses
from fwp_rl.machine import cpu_threads
from fwp_rl.models.categorical import entropy, kl_divergence, log_prob
from fwp_rl.models.policy import Policy
from fwp_rl.rl.actors import Actors, ActorsConfig, Batch
from fwp_rl.rl.replay import check_ratio, core_metrics, replay, select_columns
from fwp_rl.rl.returns import v_trace
from fwp_rl.runs.config import AGENTS, TrainConfig
from fwp_rl.training.descent import Descent
from fwp_rl.training.optim import advice, annealed
from fwp_rl.training.session import TrainingSession
from fwp_rl.types import Rollout

__all__ = ["IMPALAConfig", "impala_loss", "train"]


@AGENTS.register("impala")
@dataclass(frozen=True, kw_only=True)
class IMPALAConfig(TrainConfig):
    """Asynchronous actors and a learner with V-trace."""

    actors: ActorsConfig = field(default_factory=ActorsConfig)
    """Who plays, and where."""
    num_envs: Annotated[int, Range(1, 4096)] = 48
    """Environments of all actors together."""
    unroll_length: Annotated[int, Range(1)] = 50
    """Steps of an environment in a batch; also the span of backpropagation through time."""
    batch_size: Annotated[int, Range(1)] = 32
    """Environments in a batch: any whose unroll is finished."""
    burn_in: Annotated[int, Range(0)] = 0
    """First steps of each unroll that only bring the stored core state up to date with the
    present weights: they get no gradient and are left out of the loss. Unrolls do not overlap, so
    that nothing is ever learned from these steps."""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """RMSProp as in the papers, or Adam."""
    learning_rate: Annotated[float, Range(0, 1, above=True)] = 6e-4
    """The optimizer's learning rate."""
    optimizer_epsilon: Annotated[float, Range(0, 1, above=True)] = 0.01
    """The optimizer's epsilon: 0.01 is for RMSProp on summed losses, 1e-5 fits Adam."""
    rmsprop_alpha: Annotated[float, Range(0, 1)] = 0.99
    """RMSProp's smoothing."""
    anneal_learning_rate: bool = True
    """Take the learning rate linearly to 0 at total_steps."""
    reduction: Literal["sum", "mean"] = "sum"
    """Losses are summed over time and batch, as in the papers, or averaged."""
    discount: Annotated[float, Range(0, 1)] = 0.99
    """Discount gamma of a step."""
    trace_lambda: Annotated[float, Range(0, 1)] = 1.0
    """Lambda of V-trace's traces."""
    rho_bar: Annotated[float, Range(0, above=True)] = 1.0
    """Clips the importance weights of the temporal differences: fixes which policy's values are
    learned."""
    c_bar: Annotated[float, Range(0, above=True)] = 1.0
    """Clips the importance weights of the traces: trades speed for variance."""
    pg_rho_bar: Annotated[float, Range(0, above=True)] = 1.0
    """Clips the importance weights of the policy gradient."""
    value_coefficient: Annotated[float, Range(0)] = 0.5
    """Weight of the value loss."""
    entropy_coefficient: Annotated[float, Range(0)] = 0.01
    """Weight of the entropy, which the loss rewards."""
    max_gradient_norm: Annotated[float, Range(0, above=True)] = 40.0
    """Gradients are scaled down to this global norm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_envs % self.actors.count:
            raise ConfigError(
                f"actors.count: got {self.actors.count}, expected a divisor of "
                f"num_envs = {self.num_envs}: each actor has as many environments as the others"
            )
        if self.burn_in >= self.unroll_length:
            raise ConfigError(
                f"burn_in: got {self.burn_in}, expected less than "
                f"unroll_length = {self.unroll_length}"
            )

    def learning_rate_at(self, step: int) -> float:
        return annealed(self, step)

    def train(self, *, resume: Path | None = None) -> Path:
        return train(self, resume=resume)


def train(config: IMPALAConfig, *, resume: Path | None = None) -> Path:
    """Train to ``config.total_steps``; returns the run directory.

    ``resume`` continues that run directory from its newest good checkpoint. Ctrl-C and SIGTERM
    save a checkpoint before they take effect, and so does an actor that fails or hangs.
    """
    with (
        TrainingSession(config, resume=resume) as session,
        cpu_threads(cores := config.actors.cores_left(session.device)),
    ):
        policy = Policy(config, config.env.spec()).to(session.device)
        optimizer = _optimizer(config, policy)
        actors_device = config.actors.resolve_device(session.device)
        action_draws = [
            session.generator(f"action-{index}", actors_device)
            for index in range(config.actors.count)
        ]
        session.begin(policy, optimizer)
        descend = session.closing(
            Descent(config, policy, optimizer, cores=cores, tell=session.tell),
            "the learner's threads",
        )
        with session.playing():
            actors = session.closing(
                Actors(
                    config.actors,
                    config.env,
                    policy,
                    seeds=session.env_seeds(config.num_envs),
                    generators=action_draws,
                    unroll_length=config.unroll_length,
                    batch_size=config.batch_size,
                    poll=session.poll,
                )
            )
            for pulse in actors.pulses:
                session.watch(pulse)
            actors.start(policy)
        while session.step < config.total_steps:
            # act: the actors do, all the while; here is a batch of what they have finished
            with session.playing(), session.stopwatch("waiting"):
                batch = actors.next_batch()

            # learn: one gradient step
            with session.stopwatch("learning"):
                metrics = _update(
                    config, policy, descend, batch.rollout, step=session.step, log=session.logs_next
                )
                # publish: an actor takes these weights over before its next unroll. The unrolls
                # that lie in buffers meanwhile were played by older ones, which V-trace corrects:
                # about num_envs · actors.buffers / batch_size updates at most (3 by default) where
                # the actors keep up with each other, and more for one that falls behind.
                actors.publish(policy)

            # record: how old the weights were, where the time went, and a checkpoint when due
            metrics |= _lag(batch, actors.version - 1)
            if not metrics["policy/lag_max"]:  # the weights that played are those that learned
                check_ratio(metrics["policy/ratio_deviation"], policy, session.warn_once)
            metrics |= {f"time/{name}": share for name, share in batch.shares.items()}
            session.log(int(metrics.pop("steps")), batch.games, metrics)
            session.save_if_due()
        session.save()
    return session.path


def _optimizer(config: IMPALAConfig, policy: Policy) -> torch.optim.Optimizer:
    if config.optimizer == "adam":
        return torch.optim.Adam(
            policy.parameters(), lr=config.learning_rate, eps=config.optimizer_epsilon, fused=True
        )
    return torch.optim.RMSprop(
        policy.parameters(),
        lr=config.learning_rate,
        alpha=config.rmsprop_alpha,
        eps=config.optimizer_epsilon,
    )


def _update(
    config: IMPALAConfig,
    policy: Policy,
    descend: Descent,
    rollout: Rollout,
    *,
    step: int,
    log: bool,
) -> dict[str, float]:
    """One gradient step on one batch; returns its metrics, those of the core if they are logged,
    and the steps that count."""
    records: dict[str, list[Tensor]] = {}

    def loss(part: slice) -> StepLosses:
        # What the core does is told of the first environments: a part of them shows it, and a part
        # is computed by one thread.
        with recording() as recorded:
            losses = impala_loss(config, policy, select_columns(rollout, part))
        if log and part.start == 0:
            records.update(recorded)
        return losses

    counted = rollout.mask[config.burn_in :].sum()
    return descend(
        loss,
        columns=config.batch_size,
        divisor=1 if config.reduction == "sum" else counted,
        step=step,
        also=lambda: {"steps": rollout.mask.sum()} | (core_metrics(records) if log else {}),
        advise=lambda: advice(policy, rollout),
    )


def impala_loss(config: IMPALAConfig, policy: Policy, rollout: Rollout) -> StepLosses:
    """The V-trace actor-critic loss of each step of some environments."""
    steps = slice(config.burn_in, None)
    length = len(rollout.action)
    # bootstrap: the same pass goes one step further, and its last value is of what comes next
    output = replay(policy, rollout, start=config.burn_in, stop=length + 1)
    logits = output.logits[:-1]
    mask, action = rollout.mask[steps], rollout.action[steps]
    behaviour_logits = rollout.behaviour_logits[steps]

    # targets and advantages of π from what μ played
    log_pi = log_prob(logits, action)
    # a dummy step's action was never played: its ratio must not enter
    log_rho = (log_pi - log_prob(behaviour_logits, action)).detach().masked_fill(~mask, 0)
    target, advantage = v_trace(
        log_rho,
        policy.clip_reward(rollout.reward[steps]),
        config.discount * (~rollout.terminated[steps]),
        output.value.detach(),
        mask,
        lam=config.trace_lambda,
        rho_bar=config.rho_bar,
        c_bar=config.c_bar,
        pg_rho_bar=config.pg_rho_bar,
    )

    # the three losses, and their sum
    policy_loss = -advantage * log_pi
    value_loss = 0.5 * (output.value[:-1] - target) ** 2
    policy_entropy = entropy(logits)
    loss = (
        policy_loss
        + config.value_coefficient * value_loss
        - config.entropy_coefficient * policy_entropy
    )
    with torch.no_grad():
        ratio = log_rho.exp()
        return StepLosses(
            loss=loss,
            mask=mask,
            parts={"loss/policy": policy_loss, "loss/value": value_loss},
            means={
                "policy/entropy": policy_entropy,
                "policy/kl": kl_divergence(behaviour_logits, logits),
                "policy/clip_fraction": (ratio > config.rho_bar).float(),
            },
            maxima={"policy/ratio_deviation": (ratio - 1).abs()},
            explained={"value/explained_variance": (output.value[:-1], target)},
        )


def _lag(batch: Batch, version: int) -> dict[str, float]:
    """How many updates behind the learner the actors' weights were."""
    lag = (version - batch.version).float()
    return {"policy/lag_mean": lag.mean().item(), "policy/lag_max": lag.max().item()}
