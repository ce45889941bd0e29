"""A saved policy on anybody's loop: NumPy in, NumPy out, and its memory kept between the calls."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fwp_rl.machine import choose_device, set_gpu_arithmetic
from fwp_rl.models.actions import asked_rule
from fwp_rl.models.policy import Policy
from fwp_rl.rl.acting import Acting
from fwp_rl.runs.policy import load_policy
from fwp_rl.runs.seeding import derive_seed

__all__ = ["Player", "load_player"]


class Player:
    """Answers observations with actions, in one environment or in many side by side:

        player.reset()
        action = player.act(obs)                 # an int, or int64 [B]
        action = player.act(obs, reward)         # reward: the answer to the last action
        player.reset(terminated | truncated)     # where the next observation begins an episode

    One environment: ``obs`` is of the spec's shape, reward a number, mask a truth value. Many:
    arrays [B, ...], [B] and [B], of which there are as many until the next ``reset()``. An
    environment that restarts on the next step (Gymnasium's ``NEXT_STEP``) shows its last
    observation before the next episode's first: act on it, which the environment ignores, and
    reset after that.

    ValueError, in one line and before anything has changed, for an observation or a reward that is
    not as the policy was trained; RuntimeError for calls in another order.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        greedy: bool = False,
        actions: str | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        """
        policy  is moved to the device and put into evaluation mode
        greedy  short for actions "greedy"
        actions name of an action rule: sampled, greedy, epsilon_greedy; by default the policy's own
        seed    of the actions; the same as an evaluation's draws the same
        device  cpu, cuda or cuda:N; auto takes a CUDA device if there is one
        """
        where = choose_device(device)
        set_gpu_arithmetic(policy.config.matmul_precision)
        self.policy = policy.eval().to(where)
        self._rule = asked_rule(actions, greedy=greedy)
        self._generator = torch.Generator(where).manual_seed(
            derive_seed(seed, "evaluation-actions")
        )
        self._acting: Acting | None = None
        self._shape: tuple[int, ...] = ()
        """(B,), or () for one environment."""
        self._resets: NDArray[np.bool_] | None = None
        """[*shape] where the next observation begins an episode; None before ``reset()``."""

    def reset(self, mask: Any = None) -> None:
        """The next observation begins an episode, everywhere or where ``mask``, [B] bool, is true.

        Without a mask the number of environments may be another one from then on.
        """
        if mask is None:
            self._acting, self._resets = None, np.ones((), np.bool_)
            return
        if self._acting is None or self._resets is None:
            raise RuntimeError("reset(mask) before the first act(): call reset() to begin with")
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != self._shape:
            raise ValueError(
                f"mask is {mask.dtype} {mask.shape}, expected bool {self._shape}: {self._count()}"
            )
        self._resets = self._resets | mask

    def act(self, obs: Any, reward: Any = None) -> Any:
        """The actions: an int for one environment, int64 [B] for many.

        obs     [*observation_shape] or [B, *observation_shape], uint8 or float32 as the spec says
        reward  [B], raw: the environment's answer to the last action. A policy that reads it needs
                it, but where all environments begin an episode
        """
        if self._resets is None:
            raise RuntimeError("act() before reset(): call reset() where episodes begin")
        obs, shape = self._checked(np.asarray(obs))
        resets = np.broadcast_to(self._resets, shape)
        rewards = self._rewards(reward, shape, resets)
        columns = shape[0] if shape else 1
        if self._acting is None:
            self._shape = shape
            self._acting = Acting(self.policy, columns, generator=self._generator, rule=self._rule)
        self._acting.see(
            torch.from_numpy(obs.reshape(columns, *self.policy.spec.observation_shape)),
            reset=torch.from_numpy(resets.reshape(columns).copy()),
            reward=torch.from_numpy(rewards.reshape(columns)),
        )
        self._acting.act()
        self._resets = np.zeros(shape, np.bool_)
        played: NDArray[np.int64] = self._acting.played.numpy()
        return played.copy() if shape else int(played[0])

    def _checked(self, obs: NDArray[Any]) -> tuple[NDArray[Any], tuple[int, ...]]:
        """A copy of the observations, and () or (B,)."""
        spec = self.policy.spec
        one = spec.observation_shape
        if obs.dtype != spec.observation_dtype:
            raise ValueError(
                f"obs has dtype {obs.dtype}, expected {spec.observation_dtype} for {spec.name}"
            )
        shape = () if obs.shape == one else obs.shape[:1]
        if obs.shape != (*shape, *one) or 0 in shape:
            raise ValueError(
                f"obs has shape {obs.shape}, expected {one} for one environment of {spec.name}, or "
                f"(B, {', '.join(map(str, one))}) for B of them"
            )
        if self._acting is not None and shape != self._shape:
            raise ValueError(
                f"obs has shape {obs.shape}, expected {(*self._shape, *one)}: {self._count()}; "
                "reset() begins anew with another number"
            )
        if not np.isfinite(obs).all():
            raise ValueError("obs holds NaN or infinity, expected finite numbers")
        return obs.copy(), shape

    def _rewards(
        self, reward: Any, shape: tuple[int, ...], resets: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        if reward is None:
            if self.policy.config.last_reward and not resets.all():
                raise ValueError(
                    "reward is missing: this policy reads the last one; act(obs, reward), with the "
                    "environment's answer to its last action, or reset() where an episode begins"
                )
            return np.zeros(shape, np.float32)
        given = np.asarray(reward)
        if given.shape != shape or given.dtype.kind not in "iuf":
            raise ValueError(
                f"reward is {given.dtype} {given.shape}, expected numbers {shape}, one "
                "per environment"
            )
        with np.errstate(over="ignore"):  # infinite then, and refused
            numbers = given.astype(np.float32)
        if not np.isfinite(numbers[~resets]).all():
            raise ValueError("reward holds NaN or infinity, expected finite numbers within float32")
        return numbers

    def _count(self) -> str:
        if not self._shape:
            return "so far it was one environment"
        return f"so far they were {self._shape[0]} environments"


def load_player(
    path: str | Path,
    *,
    greedy: bool = False,
    actions: str | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Player:
    """The policy in a policy folder, a run directory or a checkpoint of a run, as a ``Player``. It
    needs the policy's core and encoder, and not the environment that it was trained on.
    CheckpointError as for ``load_policy``."""
    return Player(load_policy(path), greedy=greedy, actions=actions, seed=seed, device=device)
