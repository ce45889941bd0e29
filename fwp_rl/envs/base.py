"""What every environment adapter provides. ``fwp_rl/types.py`` has the time alignment.

An adapter steps B columns in lockstep, emits one dummy step after every end of an episode, and
supplies ``reset``, ``mask``, ``terminated`` and ``truncated`` itself. It also keeps the books on
whole *games*, which may hold several episodes (with episodic life, a lost life ends an episode).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fwp_rl.registry import Registry
from fwp_rl.types import EnvSpec

__all__ = [
    "ENVS",
    "ActionError",
    "AnswerError",
    "EnvConfig",
    "EnvStep",
    "Game",
    "VectorEnv",
    "check_action",
    "normalized_score",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Game:
    """One finished game of one column."""

    column: int
    episode_return: float
    """Sum of the raw reward over the whole game, all lives."""
    length: int
    """Steps with mask 1."""
    truncated: bool
    """Cut by the time limit; the return is what had been scored so far."""


@dataclass(kw_only=True, slots=True)
class EnvStep:
    """The answer to one vector of actions.

    obs         [B, *observation_shape]  the *next* observation, obs[t + 1]
    reset       [B]  bool     obs[t + 1] is the first of an episode
    reward      [B]  float32  raw, of action[t]
    terminated  [B]  bool     of action[t]; never true together with truncated
    truncated   [B]  bool     of action[t]
    mask        [B]  bool     false where action[t] was ignored (a dummy step)
    games       the games that ended with this step
    """

    obs: NDArray[Any]
    reset: NDArray[np.bool_]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    mask: NDArray[np.bool_]
    games: list[Game] = field(default_factory=list)


class VectorEnv(Protocol):
    """B columns of one environment, stepped in lockstep."""

    spec: EnvSpec
    num_envs: int

    def reset(self) -> NDArray[Any]:
        """Start: the first observations ``[B, *observation_shape]``. Call it once.

        Raises AnswerError where they are not finite. The array is the caller's, as in ``step``.
        """
        ...

    def step(self, action: NDArray[Any]) -> EnvStep:
        """Play one action per column (integers ``[B]``). Raises ActionError on anything else, and
        AnswerError where a reward or an observation is not finite.

        The arrays of an answer are the caller's: each is new, and no later step writes to it. Who
        acts still holds an observation while the next one is made.
        """
        ...

    def render(self, column: int) -> NDArray[np.uint8]:
        """The screen of one column, ``[height, width, 3]``. Needs ``render=True`` at ``make``."""
        ...

    def describe(self) -> dict[str, Any]:
        """Every argument and version that a result depends on, ready for JSON."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """Base of the config of every environment family; subclasses are frozen dataclasses."""

    def make(
        self,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_threads: int | None = None,
        render: bool = False,
    ) -> VectorEnv:
        """Build B = ``num_envs`` columns, column i seeded with ``seeds[i]`` (int32, >= 0)."""
        raise NotImplementedError

    def spec(self) -> EnvSpec:
        """Shape of an observation and number of actions, without stepping anything."""
        raise NotImplementedError

    def settled(self) -> dict[str, Any]:
        """The fields that leave their value to a named set of rules, with the values they have by
        it. A stored config holds these, and so means the same however the set may change."""
        return {}

    def terms(self) -> str | None:
        """The rules of play in one line, to be told when training starts; None where there is but
        one set of them."""
        return None

    def frame_rate(self) -> float | None:
        """Steps per second of play for a person to watch; None where there is no screen."""
        return None

    def action_names(self) -> tuple[str, ...] | None:
        """What the actions are called, in their order; None where they have no names."""
        return None

    def success(self, game: Game) -> bool | None:
        """Whether a game reached the task's goal; None where a task has scores and no goal."""
        return None

    def score_bounds(self) -> tuple[float, float] | None:
        """The returns that become 0 and 1 where scores of different tasks are brought to one scale:
        ``human_scores``, or else the least and the greatest that a game can have; None where the
        task states none."""
        return self.human_scores()

    def human_scores(self) -> tuple[float, float] | None:
        """Mean returns of a random player and of a human; None where nobody has measured them."""
        return None

    def guessed_speed(self) -> float:
        """Training steps per second to reckon with on one core of a server CPU with bfloat16
        arithmetic, before anything has run: half of what two cores made, rounded (see
        docs/benchmarks, and the runs of the ablations minigrid_memory and cores_quick)."""
        return 1_500.0

    def frames_per_step(self) -> int:
        """Frames of the screen that one step plays; 1 unless actions are repeated."""
        return 1

    def paper_protocol(self) -> "EnvConfig | None":
        """This environment as the fast weight papers' code evaluates it; None where it does not.
        Raises ConfigError where the papers play it by other rules than these."""
        return None


class Bounded(Protocol):
    """A config that may know a least and a greatest score: of an environment, a run or a task."""

    def score_bounds(self) -> tuple[float, float] | None: ...


def normalized_score(task: Bounded, score: float) -> float | None:
    """(score − low) / (high − low) by the task's ``score_bounds``; None for a task without."""
    bounds = task.score_bounds()
    return None if bounds is None else (score - bounds[0]) / (bounds[1] - bounds[0])


ENVS: Registry[EnvConfig] = Registry("environment", "fwp_rl.envs")


class ActionError(ValueError):
    """Actions of the wrong shape, type or range."""


class AnswerError(FloatingPointError):
    """A reward or an observation that is not finite, or beyond float32: names the environment, the
    step and the value. The environment is not to be stepped on."""


def check_action(action: NDArray[Any], num_envs: int, num_actions: int) -> NDArray[np.int32]:
    """The actions as contiguous int32 ``[B]``, or an ActionError that says what is wrong."""
    try:
        action = np.asarray(action)
    except ValueError as error:  # a ragged list
        raise ActionError(f"actions are no array: {error}") from None
    if action.shape != (num_envs,):
        raise ActionError(
            f"actions have shape {action.shape}, expected ({num_envs},): one per environment"
        )
    if action.dtype.kind not in "iu":  # to NumPy's type tree, durations are integers too
        raise ActionError(f"actions have dtype {action.dtype}, expected an integer type")
    if action.size and (action.min() < 0 or action.max() >= num_actions):
        bad = action[(action < 0) | (action >= num_actions)][0]
        raise ActionError(f"action {bad} is out of range, expected 0 to {num_actions - 1}")
    return np.ascontiguousarray(action, dtype=np.int32)
