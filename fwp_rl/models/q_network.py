"""A Q-network with a memory: the same encoder and core as an actor-critic, and one other head."""

from torch import Tensor, nn

from fwp_rl.models.actions import Greedy
from fwp_rl.models.policy import POLICIES, Policy, head

__all__ = ["QNetwork"]


@POLICIES.register("q_network")
class QNetwork(Policy):
    """Values of actions: its ``logits`` are Q [T, B, A], its ``value`` is max over a of Q [T, B].

    The core's output passes a LayerNorm, without which Q-learning that has no target network may
    diverge (Gallici et al. 2024). The values start near 0.
    """

    action_rule = Greedy()

    def _build_heads(self, input_size: int, num_actions: int) -> None:
        self.norm = nn.LayerNorm(input_size)
        self.q_head = head(input_size, num_actions, gain=0.01)

    def _answer(self, y: Tensor) -> tuple[Tensor, Tensor]:
        q: Tensor = self.q_head(self.norm(y))
        return q, q.amax(-1)

    def preferences(self, logits: Tensor) -> Tensor:
        """Where each value lies between the least and the greatest."""
        low, high = logits.amin(-1, keepdim=True), logits.amax(-1, keepdim=True)
        return (logits - low) / (high - low).clamp(min=1e-12)
