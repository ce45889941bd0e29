"""The contract between environments, cores, policies and agents.

Shape letters, the same everywhere: T time, B batch (environment columns), H heads, K key dim,
V value dim, D features, A actions, L layers. Data is time-major ``[T, B, ...]``; the leaves of a
recurrent state are batch-first ``[B, ...]``. Acting is the same call as learning, with T = 1.

Three words mean three things. ``terminated``: the episode ended and its future is worth nothing.
``truncated``: it was cut off, its future is worth the value of what follows. ``reset``: this
observation is the first of an episode, so the core forgets *before* it reads it. ``reset`` comes
from the environment adapter; nobody derives it from the other two.

Episodes restart on the *next* step. When action[e] ends an episode, step e + 1 is a dummy: its
observation is the true last one, the environment ignores its action, its reward is 0 and
``mask[e + 1]`` is 0. ``reset[e + 2]`` is 1. The dummy passes through encoder and core like any
step, which makes value[e + 1] the bootstrap value of a truncation at e.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:  # environments need no torch, nor does who asks what they are
    from torch import Tensor

__all__ = ["EnvSpec", "Observation", "PolicyOutput", "Rollout", "State"]

State: TypeAlias = "tuple[Tensor, ...]"
"""A core's memory: a flat tuple of ``[B, ...]`` tensors, ``()`` for a core without memory.
Zeros mean "start of an episode"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvSpec:
    """What a policy must know of an environment to be built for it."""

    name: str
    """Family and task, e.g. ``atari/Breakout``."""
    observation_shape: tuple[int, ...]
    """Shape of one column's observation. Three axes are an image, channels first:
    ``(4, 84, 84)``. Anything else is no image, and read as a vector."""
    num_actions: int
    observation_dtype: Literal["uint8", "float32"] | None = None
    """uint8, for images alone, is divided by 255 where it enters a network; float32 is taken as it
    is. None is uint8 for an image, else float32: as all specs had it that do not say."""

    def __post_init__(self) -> None:
        if self.observation_dtype is None:
            dtype = "uint8" if self.is_image else "float32"
            object.__setattr__(self, "observation_dtype", dtype)
        elif self.observation_dtype not in ("uint8", "float32"):
            raise ValueError(
                f"observation_dtype: got {self.observation_dtype!r}, expected uint8 or float32"
            )
        elif self.observation_dtype == "uint8" and not self.is_image:
            raise ValueError(
                f"observation_dtype: got uint8 for observations of shape {self.observation_shape}, "
                "expected float32: uint8 is for images [C, H, W]"
            )

    @property
    def is_image(self) -> bool:
        """The observation is an image [C, H, W]."""
        return len(self.observation_shape) == 3


@dataclass(kw_only=True, slots=True)
class Observation:
    """What the policy reads.

    obs          [T, B, *observation_shape]  uint8 or float32, as the environment's spec says
    reset        [T, B]  bool     obs[t] is the first of an episode
    last_reward  [T, B]  float32  the clipped reward[t-1]; 0 where reset
    last_action  [T, B]  int64    action[t-1]; -1, which stands for "none", where reset
    """

    obs: Tensor
    reset: Tensor
    last_reward: Tensor
    last_action: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Observation:
        """The observation of other tensors, each what ``change`` makes of one."""
        return Observation(**{f.name: change(getattr(self, f.name)) for f in fields(self)})

    def tensors(self) -> list[Tensor]:
        """All of its tensors, in the order of the fields."""
        return [getattr(self, f.name) for f in fields(self)]


@dataclass(kw_only=True, slots=True)
class PolicyOutput:
    """What the policy answers: logits [T, B, A] and value [T, B], both float32, and the state
    after the last step. A Q-network's logits are its values of the actions, its value is the
    greatest of them."""

    logits: Tensor
    value: Tensor
    state: State


@dataclass(kw_only=True, slots=True)
class Rollout:
    """T steps of B columns. ``observation`` has T + 1 entries along time, the rest T.

    observation       obs[T] is evaluated once for the bootstrap value, and again as index 0 of
                      the next rollout
    action            [T, B]     int64
    reward            [T, B]     float32  raw: the answer to action[t]; the agent clips it
    terminated        [T, B]     bool     never true together with truncated
    truncated         [T, B]     bool
    mask              [T, B]     bool     false where the environment ignored action[t]
    behaviour_logits  [T, B, A]  float32  of the policy that acted
    value             [T, B]     float32  of the policy that acted
    initial_state     the core's state before index 0, leaves [B, ...]
    extras            name → [T, B, ...], what an agent keeps beside these: collected with them
                      (``rl.collector.Extra``), or computed from them, such as targets
    """

    observation: Observation
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    mask: Tensor
    behaviour_logits: Tensor
    value: Tensor
    initial_state: State
    extras: dict[str, Tensor] = field(default_factory=dict)

    def map(
        self, change: Callable[[Tensor], Tensor], *, state: Callable[[Tensor], Tensor]
    ) -> Rollout:
        """The rollout of other tensors: what ``change`` makes of each time-major one, [T, B, ...]
        and the observation's T + 1, and ``state`` of each leaf [B, ...] of the state."""
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in self._time_major()}
        return Rollout(
            observation=self.observation.map(change),
            initial_state=tuple(map(state, self.initial_state)),
            extras={name: change(extra) for name, extra in self.extras.items()},
            **changed,
        )

    def with_extras(self, **extras: Tensor) -> Rollout:
        """The rollout with these beside its own, each [T, B, ...]: whatever selects or copies its
        environments takes them along."""
        return replace(self, extras=self.extras | extras)

    def tensors(self) -> list[Tensor]:
        """All of its tensors, those of the observation, the state and the extras among them."""
        own = [getattr(self, name) for name in self._time_major()]
        extras = self.extras.values()
        return [*self.observation.tensors(), *self.initial_state, *own, *extras]

    def _time_major(self) -> list[str]:
        """The fields of its own that are [T, B, ...]."""
        names = [f.name for f in fields(self)]
        return [name for name in names if name not in ("observation", "initial_state", "extras")]
