"""On a GPU without one: no op mixes devices, and nothing is launched or waited for that was not
before. ``device.py`` has how."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fwp_rl.agents.impala import IMPALAConfig
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.agents.pqn import PQNConfig
from fwp_rl.cores import CORES, CoreConfig, build_core
from fwp_rl.cores.rnn import LSTMConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.models.encoders import MLPConfig

from . import launches
from .agents import acting_step, small, turns
from .device import META, MixedDevicesError, as_a_gpu

COMMON: dict[str, Any] = {
    "env": RecallConfig(),
    "encoder": MLPConfig(hidden_sizes=(4,)),
    "last_action": True,
    "burn_in": 1,
}
AGENTS = {
    "ppo": PPOConfig(**COMMON),
    "impala": IMPALAConfig(**COMMON),
    "pqn": PQNConfig(**COMMON),
}


def one_layer(name: str) -> CoreConfig:
    config: Any = CORES[name]()
    return replace(config, layers=1) if "layers" in {f.name for f in fields(config)} else config


@pytest.mark.parametrize("core", sorted(CORES))
@pytest.mark.parametrize("agent", AGENTS)
def test_every_core_acts_and_learns_without_a_tensor_on_another_device(
    agent: str, core: str
) -> None:
    turns(small(AGENTS[agent], steps=3, core=one_layer(core)), 1)


@pytest.mark.parametrize("core", ["delta_net", "lstm"])
def test_a_gradient_horizon_mixes_no_devices_either(core: str) -> None:
    config: Any = one_layer(core)
    turns(small(AGENTS["ppo"], steps=5, core=replace(config, gradient_horizon=2)), 1)


def test_a_state_on_another_device_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    core = type(build_core(LSTMConfig(), 3))
    real = core.initial_state
    monkeypatch.setattr(core, "initial_state", lambda self, B, device: real(self, B))
    with pytest.raises(MixedDevicesError, match=r"where.* mixes devices: .*cpu \(4, 256\)"):
        turns(small(AGENTS["ppo"], steps=3, core=LSTMConfig()), 1)


HERE = torch.ones(3, 3)
INDEX = torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + HERE,
        lambda x: HERE @ x,
        lambda x: torch.nn.functional.linear(x, HERE),
        lambda x: torch.where(HERE > 0, x, 0.0),
        lambda x: torch.cat([x, HERE]),
        lambda x: x[INDEX],
        lambda x: x.index_select(0, INDEX),
        lambda x: HERE.clone().add_(x),
        lambda x: x.masked_fill(HERE > 0, 0.0),
    ],
)
def test_ops_that_mix_devices_are_refused(mix: Callable[[Tensor], Tensor]) -> None:
    """Some of them torch lets pass on meta."""
    with as_a_gpu(), pytest.raises(MixedDevicesError):
        mix(torch.ones(3, 3, device=META))


@pytest.mark.parametrize(
    ("work", "launched", "copied", "waited"),
    [
        (lambda x: x.view(9)[2:].unsqueeze(0), 0, 0, 0),
        (lambda x: torch.empty_like(x), 0, 0, 0),
        (lambda x: x + 1 + torch.tensor(2.0), 2, 0, 0),
        (lambda x: x.add_(1).mul_(2), 2, 0, 0),
        (lambda x: HERE.to(META), 0, 1, 0),
        (lambda x: x.copy_(HERE), 0, 1, 0),
        (lambda x: x.clone().copy_(x), 2, 0, 0),
        (lambda x: x.sum().item(), 1, 0, 1),
        (lambda x: bool((x > 0).all()), 2, 0, 1),
        (lambda x: x.cpu().numpy(), 0, 0, 1),
        (lambda x: x.tolist(), 0, 0, 1),
        (lambda x: HERE.clone().copy_(x), 0, 0, 1),
        (lambda x: x.nonzero(), 0, 0, 1),
        (lambda x: x.masked_select(x > 0), 1, 0, 1),
        (lambda x: HERE + HERE, 0, 0, 0),
    ],
)
def test_what_is_counted(
    work: Callable[[Tensor], object], launched: int, copied: int, waited: int
) -> None:
    with as_a_gpu() as device:
        x = torch.empty(3, 3, device=META)
        work(x)
    counts = [sum(kind.values()) for kind in vars(device.calls).values()]
    assert counts == [launched, copied, waited]


def test_a_reset_costs_a_recurrent_net_one_wait_and_no_second_call() -> None:
    """As many calls with a reset at every step, which is what meta says of resets, as at one."""
    config = small(AGENTS["impala"], steps=6, core=LSTMConfig(hidden_size=4), burn_in=0)
    (turn,) = turns(config, 2)
    assert turn.waits["aten._to_copy.default to the host"] == 6 + 2, (
        "each action, the resets and the metrics"
    )


def test_acting_waits_for_the_actions_alone() -> None:
    for core in sorted(CORES):
        step = acting_step(small(AGENTS["ppo"], steps=2, core=one_layer(core)))
        assert sum(step.waits.values()) == 1, core


@pytest.mark.parametrize("preset", launches.PRESETS)
def test_the_presets_for_atari_launch_no_more_than_before(preset: str) -> None:
    known = launches.read()
    if known["torch"] != launches.TORCH:
        pytest.skip(f"the table is of torch {known['torch']}, which another one need not launch")
    now = launches.measure(preset)
    assert not (more := launches.rises(known[preset], now)), "\n".join(more)
    less = launches.falls(known[preset], now)
    assert not less, f"less than launches.json says, write it anew ({launches.COMMAND}): {less}"


def test_a_rise_names_the_op_and_a_fall_is_no_rise() -> None:
    def row(**ops: int) -> dict[str, Any]:
        return {"launches": sum(ops.values()), "ops": {"launches": ops}}

    before, now = {"update": row(add=3, mul=1)}, {"update": row(add=2, cat=4)}
    assert launches.rises(before, now) == ["update: launches 4 -> 6 (cat 0 -> 4)"]
    assert launches.falls(before, now) == []
    assert launches.falls(now, before) == ["update: launches 6 -> 4"]
    assert launches.rises({}, now) == ["update: launches 0 -> 6 (add 0 -> 2, cat 0 -> 4)"]
