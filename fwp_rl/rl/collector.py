"""Playing a policy in an environment, one way for training, evaluation and video.

How observations, actions, rewards and resets are aligned is stated in ``fwp_rl/types.py``, and made
in ``acting.py``.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from fwp_rl.envs import EnvStep, Game, VectorEnv
from fwp_rl.models.actions import ActionRule
from fwp_rl.models.policy import Policy
from fwp_rl.rl.acting import Acting
from fwp_rl.rl.pulse import Pulse
from fwp_rl.rl.transfer import Answers
from fwp_rl.types import Observation, PolicyOutput, Rollout, State

__all__ = [
    "Actor",
    "ActorStep",
    "Collector",
    "Extra",
    "Extras",
    "NO_EXTRAS",
    "Stopwatch",
    "casting_weights_once",
    "empty_rollout",
]


Answer = TypeVar("Answer")


class Stopwatch:
    """Seconds spent per activity, on the monotonic clock."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, activity: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[activity] = self.seconds.get(activity, 0.0) + spent

    def take(self) -> dict[str, float]:
        """The seconds since the last take."""
        seconds, self.seconds = self.seconds, {}
        return seconds


def casting_weights_once(device: torch.device) -> AbstractContextManager[Any]:
    """While in here, weights that are used in bfloat16 are cast once, and not at each call of the
    policy. Nobody may change them meanwhile.

    autocast forgets its casts where the outermost one ends, and this is one that casts nothing.
    """
    return torch.autocast(device.type, enabled=False)


@dataclass(kw_only=True, slots=True)
class ActorStep:
    """One step of all columns: what was seen, what the policy said, what was played, the answer."""

    observation: Observation
    output: PolicyOutput
    action: Tensor
    answer: EnvStep


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A tensor [T, B, *shape] that an agent wants collected beside what every rollout holds."""

    read: Callable[[ActorStep], Tensor]
    """What it is of one step: [B, *shape], on the actor's device, a tensor made anew."""
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32


Extras = Mapping[str, Extra]
NO_EXTRAS: Extras = MappingProxyType({})


class Actor:
    """A policy at play in an environment."""

    def __init__(
        self,
        policy: Policy,
        env: VectorEnv,
        *,
        generator: torch.Generator,
        rule: ActionRule | None = None,
        stopwatch: Stopwatch | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        """Resets the environment.

        generator  draws the actions, on the policy's device
        rule       which action is played; None: by the policy's own rule. It may be changed between
                   two steps
        pulse      beats at every step, and may end the play before one
        """
        self.acting = Acting(policy, env.num_envs, generator=generator, rule=rule)
        self.policy = policy
        self.env = env
        self.stopwatch = stopwatch or Stopwatch()
        self.pulse = pulse or Pulse("the environments")
        self.device = generator.device
        self.acting.see(
            torch.from_numpy(self._answer(env.reset)),
            reset=torch.ones(env.num_envs, dtype=torch.bool),
            reward=torch.zeros(env.num_envs),
        )

    @property
    def rule(self) -> ActionRule:
        """Which action is played."""
        return self.acting.rule

    @rule.setter
    def rule(self, rule: ActionRule) -> None:
        self.acting.rule = rule

    @property
    def observation(self) -> Observation:
        """What is acted on next."""
        return self.acting.observation

    @property
    def state(self) -> State:
        """Of the core, before that."""
        return self.acting.state

    @torch.no_grad()
    def step(self) -> ActorStep:
        """Act once in every column."""
        observation = self.observation
        self.pulse.act()
        try:
            with self.stopwatch("acting"):
                output, action = self.acting.act()
            with self.stopwatch("environment"):
                answer = self._answer(self.env.step, self.acting.played.numpy())
        finally:
            self.pulse.rest()
        self.acting.see(
            torch.from_numpy(answer.obs),
            reset=torch.from_numpy(answer.reset.copy()),  # it is held on to for a whole rollout
            reward=torch.from_numpy(answer.reward),
        )
        return ActorStep(observation=observation, output=output, action=action, answer=answer)

    def _answer(self, call: Callable[..., Answer], *given: NDArray[Any]) -> Answer:
        """What the environment answers. RuntimeError where it asks to end the process: that would
        pass for success."""
        self.pulse.step()
        try:
            return call(*given)
        except SystemExit as error:
            raise RuntimeError(
                f"an environment ended the process by sys.exit({error.code!r})"
            ) from error
        finally:
            self.pulse.rest()

    @torch.no_grad()
    def bootstrap_value(self) -> Tensor:
        """Value [B] of the observation to act on next; the state it leads to is thrown away."""
        with self.stopwatch("acting"):
            value: Tensor = self.policy(self.observation, self.state).value[0]
        return value


class Collector:
    """Fills one rollout after the other, in buffers that are reused: by default in its own one, so
    that a rollout has to be used before the next ``collect``."""

    def __init__(self, actor: Actor, rollout_length: int, *, extras: Extras = NO_EXTRAS) -> None:
        """extras  name → what the rollouts hold beside the rest, as ``Rollout.extras``"""
        self.actor = actor
        self.extras = extras
        self.rollout_length = rollout_length
        self._rollout: Rollout | None = None  # made where no buffer is given

    def new_rollout(self, *, pin_memory: bool = False) -> Rollout:
        """A buffer to collect into, on the actor's device."""
        actor = self.actor
        return empty_rollout(
            actor.policy,
            actor.env.num_envs,
            self.rollout_length,
            obs_dtype=actor.observation.obs.dtype,
            device=actor.device,
            pin_memory=pin_memory,
            extras={name: (extra.shape, extra.dtype) for name, extra in self.extras.items()},
        )

    def collect(self, into: Rollout | None = None) -> tuple[Rollout, list[Game]]:
        """The next T steps of every column, and the games that ended in them. The policy's weights
        may not change meanwhile."""
        actor = self.actor
        if into is None:
            into = self._rollout = self._rollout or self.new_rollout()
        rollout = into
        games: list[Game] = []
        start = time.perf_counter()
        # The state goes over as it is: a step makes a new one and never changes the one it was
        # given, so what the learner replays from stays what the actor had here.
        rollout.initial_state = actor.state
        answers = Answers(rollout)
        # What the actor makes anew in each step is held on to and goes into the rollout at the end,
        # in one call a field. Observations go at once: they are large.
        made: list[tuple[Tensor, ...]] = []
        with casting_weights_once(actor.device):
            for t in range(self.rollout_length):
                step = actor.step()
                rollout.observation.obs[t] = step.observation.obs[0]
                output = step.output
                made.append(
                    (
                        *_beside(step.observation),
                        *(step.action[None], output.logits, output.value),
                        *(self._read(name, step) for name in self.extras),
                    )
                )
                answers.enter(t, step.answer)
                games += step.answer.games
        done = (rollout.action, rollout.behaviour_logits, rollout.value)
        beside = (rollout.extras[name] for name in self.extras)
        places = (*_beside(rollout.observation), *done, *beside)
        for place, tensors in zip(places, zip(*made, strict=True), strict=True):
            torch.cat(tensors, out=place[: self.rollout_length])
        answers.deliver()
        # obs[T], which nobody has acted on yet: here it is for the bootstrap value, and the next
        # rollout begins with it
        ahead = actor.observation
        for place, tensor in zip(rollout.observation.tensors(), ahead.tensors(), strict=True):
            place[self.rollout_length] = tensor[0]
        actor.pulse.unrolled(time.perf_counter() - start)
        return rollout, games

    def _read(self, name: str, step: ActorStep) -> Tensor:
        """An extra [1, B, ...] of one step. ValueError where it is not of the form that was
        named."""
        extra = self.extras[name]
        tensor = extra.read(step)
        shape = (self.actor.env.num_envs, *extra.shape)
        if tensor.shape != shape or tensor.dtype != extra.dtype:
            raise ValueError(
                f"extra {name!r}: got {tensor.dtype} {list(tensor.shape)}, expected {extra.dtype} "
                f"{list(shape)}"
            )
        return tensor[None]


def empty_rollout(
    policy: Policy,
    columns: int,
    steps: int,
    *,
    obs_dtype: torch.dtype,
    device: torch.device,
    pin_memory: bool = False,
    extras: Mapping[str, tuple[tuple[int, ...], torch.dtype]] = MappingProxyType({}),
) -> Rollout:
    """A rollout of a policy's shapes whose tensors hold nothing yet.

    extras  name → shape and dtype of what it holds at each step of each environment beside the rest
    """

    def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device, pin_memory=pin_memory)

    spec = policy.spec
    ahead, inner = (steps + 1, columns), (steps, columns)
    return Rollout(
        observation=Observation(
            obs=empty((*ahead, *spec.observation_shape), obs_dtype),
            reset=empty(ahead, torch.bool),
            last_reward=empty(ahead, torch.float32),
            last_action=empty(ahead, torch.int64),
        ),
        action=empty(inner, torch.int64),
        reward=empty(inner, torch.float32),
        terminated=empty(inner, torch.bool),
        truncated=empty(inner, torch.bool),
        mask=empty(inner, torch.bool),
        behaviour_logits=empty((*inner, spec.num_actions), torch.float32),
        value=empty(inner, torch.float32),
        initial_state=policy.initial_state(columns, device),
        extras={name: empty((*inner, *shape), dtype) for name, (shape, dtype) in extras.items()},
    )


def _beside(observation: Observation) -> tuple[Tensor, Tensor, Tensor]:
    """All but the observation itself."""
    return observation.reset, observation.last_reward, observation.last_action
