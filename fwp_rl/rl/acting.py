"""A policy that acts, wherever its observations come from.

The alignment of observations, actions, rewards and resets is stated in ``fwp_rl/types.py``; here
is the one place that produces it. ``Actor`` plays in an environment of this package, ``Player``
answers whoever asks.
"""

import torch
from torch import Tensor

from fwp_rl.models.actions import ActionRule
from fwp_rl.models.policy import Policy
from fwp_rl.rl.transfer import Parcel
from fwp_rl.types import Observation, PolicyOutput, State

__all__ = ["Acting"]


class Acting:
    """Carries core state, last reward and last action from step to step: ``see``, then ``act``."""

    observation: Observation
    """What is acted on next, T = 1, on the policy's device."""

    def __init__(
        self,
        policy: Policy,
        columns: int,
        *,
        generator: torch.Generator,
        rule: ActionRule | None = None,
    ) -> None:
        """
        columns    environments that are acted in
        generator  draws the actions, on the policy's device
        rule       which action is played; None: by the policy's own rule
        """
        self.policy = policy
        self.generator = generator
        self.rule = policy.action_rule if rule is None else rule
        self.device = generator.device
        self.state: State = policy.initial_state(columns, self.device)
        self.played = torch.zeros(columns, dtype=torch.int64)
        """[B] int64 on the CPU: the last actions."""
        # Two, for a rollout keeps what stands beside the observations to its end.
        self._parcels: tuple[Parcel, Parcel] | None = None

    def see(self, obs: Tensor, *, reset: Tensor, reward: Tensor) -> None:
        """Take in what is acted on next. On a CPU the tensors are held on to.

        obs     [B, ...]  as the policy's spec has it
        reset   [B]  bool     it is the first of an episode
        reward  [B]  float32  raw, the answer to the last action; any number where reset
        """
        beside = [
            reset,
            self.policy.clip_reward(reward).masked_fill(reset, 0),
            self.played.masked_fill(reset, -1),
        ]
        if self.device.type != "cpu":
            if self._parcels is None:
                self._parcels = Parcel([obs], self.device), Parcel(beside, self.device)
            of_obs, of_beside = self._parcels
            (obs,), beside = of_obs.send([obs]), of_beside.send(beside)
        obs, reset, last_reward, last_action = (x.unsqueeze(0) for x in (obs, *beside))
        self.observation = Observation(
            obs=obs, reset=reset, last_reward=last_reward, last_action=last_action
        )

    @torch.no_grad()
    def act(self) -> tuple[PolicyOutput, Tensor]:
        """What the policy says of it, and the actions [B] int64 on its device; ``played`` has them
        on the CPU. The state goes on."""
        output: PolicyOutput = self.policy(self.observation, self.state)
        action = self.rule(output.logits[0], self.generator)
        self.played = action.cpu()
        self.state = output.state
        return output, action
