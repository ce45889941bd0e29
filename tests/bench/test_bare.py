"""The bare arithmetic of a policy is all of it, and no more than its."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fwp_rl.bench.bare import Acting, Learning, core_calls, gradients, leaves, replay
from fwp_rl.cores import CORES, Core, CoreConfig, build_core
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.gtrxl import GTrXLConfig
from fwp_rl.models.encoders import ImpalaResnetConfig, NatureCNNConfig
from fwp_rl.models.policy import Policy, PolicyConfig
from fwp_rl.types import EnvSpec, Observation, State

SPEC = EnvSpec(
    name="screens", observation_shape=(4, 84, 84), observation_dtype="uint8", num_actions=5
)
SMALL = {"layers": 1, "hidden_size": 16, "heads": 2, "feedforward_size": 8}


def _policies() -> list[Policy]:
    return [
        Policy(
            PolicyConfig(encoder=encoder, core=core, precision="float32"),
            SPEC,
        )
        for encoder, core in (
            (NatureCNNConfig(features=32), DeltaNetConfig(**SMALL)),
            (ImpalaResnetConfig(channels=(4, 8), features=32), GTrXLConfig(**SMALL, window=4)),
        )
    ]


def _observation(steps: int, columns: int) -> Observation:
    shape = (steps, columns)
    return Observation(
        obs=torch.zeros(*shape, *SPEC.observation_shape, dtype=torch.uint8),
        reset=torch.zeros(shape, dtype=torch.bool),
        last_reward=torch.zeros(shape),
        last_action=torch.zeros(shape, dtype=torch.int64),
    )


def test_its_products_and_convolutions_are_the_policys() -> None:
    """Counted by torch, forward and backward and in acting; of the ops both know nothing."""
    for policy in _policies():
        with FlopCounterMode(display=False) as whole:
            output = policy(_observation(3, 2), policy.initial_state(2))
            torch.autograd.backward([output.logits.sum(), output.value.sum()])
        learning = Learning(policy, 3, 2)
        with FlopCounterMode(display=False) as bare:
            found = learning()
        assert bare.get_total_flops() == whole.get_total_flops() > 0
        for parameter, gradient in zip(policy.parameters(), found, strict=True):
            assert gradient is None or gradient.shape == parameter.shape

        with FlopCounterMode(display=False) as whole, torch.no_grad():
            policy(_observation(1, 2), policy.initial_state(2))
        acting = Acting(policy, 2)
        with FlopCounterMode(display=False) as bare:
            acting(3)
        assert bare.get_total_flops() == 3 * whole.get_total_flops() > 0


@pytest.mark.parametrize("name", [name for name in CORES if name != "feedforward"])
def test_a_floor_is_known_of_every_core(name: str) -> None:
    core = build_core(CORES[name](), 7)
    ops = {"lstm", "gru", "scaled_dot_product_attention"}
    for steps, learning in ((3, True), (1, False)):
        calls = core_calls(core, steps, 2, learning=learning)
        heard = {call.function.__name__ for call in calls}
        assert heard & ops or any(
            getattr(call.function, "namespace", "") == "fwp_rl" for call in calls
        ), f"{name} has a memory: {heard}"
        with torch.set_grad_enabled(learning):
            results = replay(calls)
        assert all(x.isfinite().all() for x in results)
        if learning:
            gradients(results, leaves(calls, list(core.parameters())))


@dataclass(frozen=True, kw_only=True)
class _HiddenConfig(CoreConfig):
    def build(self, input_size: int) -> Core:
        return _Hidden(self, input_size)


class _Hidden(Core):
    """Computes with a layer in a way that nobody hears."""

    def __init__(self, config: CoreConfig, input_size: int) -> None:
        super().__init__(config, input_size)
        self.layer = nn.Linear(input_size, input_size)
        self.output_size = input_size

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        return ()

    def unroll(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        return (x[..., None, :] * self.layer.weight).sum(-1) + self.layer.bias, state


def test_a_layer_that_goes_unheard_is_told() -> None:
    """Else the floor would be lower than it is, and nobody knew."""
    with pytest.raises(
        RuntimeError, match=r"no floor is known of _HiddenConfig: its weights layer\.weight"
    ):
        core_calls(build_core(_HiddenConfig(), 3), 2, 2, learning=True)
