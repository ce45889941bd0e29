"""Recurrent PQN: Q-learning from what is being played, without replay buffer and target network.

"Simplifying Deep Temporal Difference Learning" (Gallici et al. 2024) for policies with memory:
minibatches are whole environments, each replayed from the core state that was stored at the start
of its rollout, with resets inside the sequence. What stands in for the target network is LayerNorm
after every layer, many environments, and returns over several steps.

One iteration: collect a rollout, ε-greedily; take its Q(λ) returns by the network that played,

    G[t] = r[t] + γ ((1 − λ) max_a Q[t+1](a) + λ G[t+1]),   G[T] = max_a Q[T](a),

where Q[T] comes from the state that is carried into the next rollout; then take
epochs × minibatches gradient steps on

    L = E[(Q(a) − G)²] / 2

where the mean runs over the steps that the environment did not ignore. Evaluations are greedy.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from fwp_rl.config import ConfigError, Range
from fwp_rl.cores import recording
from fwp_rl.losses import StepLosses, explained_variance
from fwp_rl.models.actions import EpsilonGreedy
from fwp_rl.models.base import EncoderConfig
from fwp_rl.models.encoders import ImpalaResnetConfig
from fwp_rl.models.policy import Policy
from fwp_rl.models.q_network import QNetwork
from fwp_rl.rl.collector import Actor, Collector
from fwp_rl.rl.pulse import Pulse
from fwp_rl.rl.replay import check_replay, core_metrics, minibatches, replay, select_columns
from fwp_rl.rl.returns import q_lambda
from fwp_rl.runs.config import AGENTS, TrainConfig
from fwp_rl.training.descent import Descent, numbers
from fwp_rl.training.optim import advice, annealed
from fwp_rl.training.session import TrainingSession
from fwp_rl.types import Rollout

__all__ = ["PQNConfig", "pqn_loss", "train"]


@AGENTS.register("pqn")
@dataclass(frozen=True, kw_only=True)
class PQNConfig(TrainConfig):
    """Recurrent PQN: Q(λ) returns, ε-greedy, neither replay buffer nor target network."""

    encoder: EncoderConfig = field(default_factory=lambda: ImpalaResnetConfig(layer_norm=True))
    """Network from an observation to features; it needs its layer_norm."""
    num_envs: Annotated[int, Range(1, 4096)] = 128
    """Environments, stepped in lockstep. Their variety does what a replay buffer does elsewhere."""
    rollout_length: Annotated[int, Range(1)] = 32
    """Steps of every environment between two updates; also the span of backpropagation through
    time."""
    epochs: Annotated[int, Range(1)] = 2
    """Passes over each rollout."""
    minibatches: Annotated[int, Range(1)] = 32
    """Gradient steps per pass; each takes num_envs / minibatches environments."""
    burn_in: Annotated[int, Range(0)] = 0
    """First steps of each rollout that only bring the stored core state up to date with the
    present weights: they get no gradient and are left out of the loss. Rollouts do not overlap, so
    that nothing is ever learned from these steps."""
    learning_rate: Annotated[float, Range(0, 1, above=True)] = 2.5e-4
    """RAdam's learning rate."""
    anneal_learning_rate: bool = False
    """Take the learning rate linearly to 0 at total_steps."""
    discount: Annotated[float, Range(0, 1)] = 0.99
    """γ."""
    q_lambda: Annotated[float, Range(0, 1)] = 0.65
    """λ of the returns."""
    epsilon_start: Annotated[float, Range(0, 1)] = 1.0
    """ε at the first step."""
    epsilon_end: Annotated[float, Range(0, 1)] = 0.001
    """ε once exploration_fraction is over."""
    exploration_fraction: Annotated[float, Range(0, 1, above=True)] = 0.1
    """Share of total_steps in which ε falls linearly from the one to the other."""
    max_gradient_norm: Annotated[float, Range(0, above=True)] = 10.0
    """Gradients are scaled down to this global norm."""

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

    def build_policy(self) -> Policy:
        return QNetwork(self, self.env.spec())

    def learning_rate_at(self, step: int) -> float:
        return annealed(self, step)

    def epsilon_at(self, step: int) -> float:
        """ε of a step."""
        share = min(1.0, step / (self.exploration_fraction * self.total_steps))
        return self.epsilon_start + share * (self.epsilon_end - self.epsilon_start)

    def train(self, *, resume: Path | None = None) -> Path:
        return train(self, resume=resume)


def train(config: PQNConfig, *, resume: Path | None = None) -> Path:
    """Train to ``config.total_steps``; returns the run directory.

    ``resume`` continues that run directory from its newest good checkpoint. Ctrl-C and SIGTERM
    save a checkpoint before they take effect, and so does an environment that fails or hangs.
    """
    with TrainingSession(config, resume=resume) as session:
        policy = config.build_policy().to(session.device)
        optimizer = torch.optim.RAdam(policy.parameters(), lr=config.learning_rate)
        action_draws = session.generator("action", session.device)
        minibatch_draws = session.generator("minibatch")
        session.begin(policy, optimizer)
        if not getattr(config.encoder, "layer_norm", True):
            session.warn("encoder.layer_norm is off: without it Q-learning like this may diverge")
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
            # act: T steps of every environment, ε-greedily
            epsilon = config.epsilon_at(session.step)
            actor.rule = EpsilonGreedy(epsilon=epsilon)
            with session.playing():
                rollout, games = collector.collect()

            # bootstrap: the greatest value of what comes next, and from it the returns
            with recording() as records:
                bootstrap_value = actor.bootstrap_value()
            target = q_lambda(
                policy.clip_reward(rollout.reward),
                config.discount * (~rollout.terminated),
                torch.cat([rollout.value, bootstrap_value[None]]),
                rollout.mask,
                lam=config.q_lambda,
            )

            # learn: epochs × minibatches gradient steps
            with session.stopwatch("learning"):
                metrics = _update(
                    config,
                    policy,
                    descend,
                    rollout.with_extras(target=target),
                    generator=minibatch_draws,
                    step=session.step,
                )

            # record: the log, and a checkpoint when its time has come
            deviation = metrics["value/q_deviation"]
            check_replay("value/q_deviation", deviation, policy, session.warn_once)
            acted = _of_actions(rollout.behaviour_logits, rollout.action)
            explained = explained_variance(acted, target, rollout.mask)
            also = {"steps": rollout.mask.sum(), "value/explained_variance": explained}
            metrics |= numbers(also | (core_metrics(records) if session.logs_next else {}))
            metrics["policy/epsilon"] = epsilon
            session.log(int(metrics.pop("steps")), games, metrics)
            session.save_if_due()
        session.save()
    return session.path


def _update(
    config: PQNConfig,
    policy: Policy,
    descend: Descent,
    rollout: Rollout,
    *,
    generator: torch.Generator,
    step: int,
) -> dict[str, float]:
    """Epochs × minibatches gradient steps on one rollout; returns means of the metrics."""
    counts = rollout.mask[config.burn_in :]
    device = rollout.action.device
    history: list[dict[str, float]] = []
    for _ in range(config.epochs):
        for columns in minibatches(config.num_envs, config.minibatches, generator, device):
            chosen = select_columns(rollout, columns)

            def loss(part: slice, of: Rollout = chosen) -> StepLosses:
                return pqn_loss(config, policy, select_columns(of, part))

            history.append(
                descend(
                    loss,
                    columns=len(columns),
                    divisor=counts[:, columns].sum(),
                    step=step,
                    advise=lambda: advice(policy, rollout),
                )
            )
    means = {name: sum(m[name] for m in history) / len(history) for name in history[0]}
    # only the first minibatch is seen by the very weights that acted
    means["value/q_deviation"] = history[0]["value/q_deviation"]
    return means


def pqn_loss(config: PQNConfig, policy: Policy, rollout: Rollout) -> StepLosses:
    """The squared error of the action values of each step of some environments.

    rollout  with the returns [T, B] among its extras, as ``target``
    """
    steps = slice(config.burn_in, None)
    output = replay(policy, rollout, start=config.burn_in, stop=len(rollout.action))
    mask, acted = rollout.mask[steps], rollout.behaviour_logits[steps]
    q = _of_actions(output.logits, rollout.action[steps])
    # zeros, for masking the loss alone would let a NaN at a dummy step through to the gradient
    target = rollout.extras["target"][steps].masked_fill(~mask, 0)
    loss = 0.5 * (q - target) ** 2
    with torch.no_grad():
        deviation = (output.logits - acted).abs() / (1 + acted.abs())
        return StepLosses(
            loss=loss,
            mask=mask,
            parts={"loss/value": loss},
            means={"value/q_mean": q},
            maxima={"value/q_deviation": deviation.amax(-1)},
        )


def _of_actions(q: Tensor, action: Tensor) -> Tensor:
    """The values [T, B] of the actions [T, B] among those of all, [T, B, A]."""
    return q.gather(-1, action.unsqueeze(-1)).squeeze(-1)
