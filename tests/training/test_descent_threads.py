"""Who computes the shards of a minibatch changes nothing, and whatever fails leaves the weights."""

import copy
import dataclasses
import json
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from minibatches import (
    IMPALA,
    PPO,
    T,
    descending,
    policy_and_rollout,
    replayed,
    same,
    step,
    whole,
)  # fmt: skip
from torch import nn

from fwp_rl.agents import ppo
from fwp_rl.agents.impala import IMPALAConfig
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.losses import StepLosses
from fwp_rl.machine import cpu_threads
from fwp_rl.models.encoders import NatureCNNConfig
from fwp_rl.models.policy import Policy
from fwp_rl.training.descent import Descent


@pytest.mark.parametrize("agent", [PPO, IMPALA], ids=["ppo", "impala"])
def test_any_number_of_threads_has_the_same_bits(agent: PPOConfig | IMPALAConfig) -> None:
    """Convolutions and matrices so large that OpenMP would divide them among its threads."""
    config = dataclasses.replace(
        agent,
        env=AtariConfig(game="Pong"),
        encoder=NatureCNNConfig(features=128),
        core=DeltaNetConfig(layers=1),
        gradient_shards=4,
    )
    policy, rollout = policy_and_rollout(config, torch.float32)
    found = []
    for threads, openmp in ((1, 1), (2, 1), (3, 2), (1, 3)):
        ours = copy.deepcopy(policy)
        optimizer = torch.optim.Adam(ours.parameters(), fused=True)
        settings = dataclasses.replace(config, learner_threads=threads)
        with (
            cpu_threads(openmp),
            closing(Descent(settings, ours, optimizer, cores=1)) as descend,
        ):
            metrics = [step(config, descend, ours, rollout) for _ in range(2)]
            assert torch.get_num_threads() == openmp
        found.append((ours.state_dict(), metrics))
    for weights, metrics in found[1:]:
        assert same(weights, found[0][0])
        assert metrics == found[0][1]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("failure", ["nan", "raised"])
def test_whatever_fails_leaves_the_weights_untouched(
    failure: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, rollout = policy_and_rollout(PPO, torch.float32)
    before = copy.deepcopy(policy.state_dict())
    honest, calls = ppo.ppo_loss, threading.Semaphore(2)

    def planted(*args: Any) -> StepLosses:
        losses = honest(*args)
        if not calls.acquire(blocking=False):  # the third call, whichever thread's it is
            if failure == "raised":
                raise ZeroDivisionError("planted")
            losses.loss = losses.loss * torch.inf
        return losses

    kind = FloatingPointError if failure == "nan" else ZeroDivisionError
    config = dataclasses.replace(PPO, gradient_shards=4, learner_threads=threads)
    with descending(config, policy) as descend:
        with monkeypatch.context() as patch:
            patch.setattr(ppo, "ppo_loss", planted)
            with pytest.raises(kind, match=r"planted|weights are untouched"):
                step(config, descend, policy, rollout)
        assert same(before, policy.state_dict())
        step(config, descend, policy, rollout)
        ours = policy.state_dict()
    fresh, _ = policy_and_rollout(PPO, torch.float32)
    with descending(config, fresh) as descend:
        step(config, descend, fresh, rollout)
    assert same(ours, fresh.state_dict()), "nothing of the failed step is left in the next"
    assert not [t for t in threading.enumerate() if t.name.startswith("learner-")]


@pytest.mark.parametrize("threads", [1, 3])
def test_all_shards_of_a_step_see_one_projection(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = DeltaNetConfig(
        layers=1, hidden_size=8, heads=2, feature_map="favor", redraw_projection=True
    )
    config = dataclasses.replace(PPO, core=core, burn_in=2)
    policy, rollout = policy_and_rollout(config, torch.float32)
    fixed = dataclasses.replace(config, core=dataclasses.replace(core, redraw_projection=False))
    honest, seen = ppo.ppo_loss, []

    def watched(*args: Any) -> StepLosses:
        losses = honest(*args)
        seen.append([x.clone() for x in policy.buffers()])
        return losses

    monkeypatch.setattr(ppo, "ppo_loss", watched)
    before = [x.clone() for x in policy.buffers()]
    with descending(config, policy, gradient_shards=4, learner_threads=threads) as descend:
        for _ in range(2):
            seen.clear()
            expected = copy.deepcopy(policy)
            step(config, descend, policy, rollout)
            (drawn,) = seen[0]
            assert len(seen) == 4
            assert all(torch.equal(drawn, other) for (other,) in seen)
            assert not torch.equal(drawn, before[0])
            before = [drawn]
            # the gradient is that of this one projection, burn-in included
            core_alone = Policy(fixed, config.env.spec())
            core_alone.load_state_dict(expected.state_dict())
            for buffer in core_alone.buffers():
                buffer.copy_(drawn)
            whole(fixed, core_alone, rollout).backward()
            nn.utils.clip_grad_norm_(core_alone.parameters(), config.max_gradient_norm)
            for p, q in zip(policy.parameters(), core_alone.parameters(), strict=True):
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)
    before = [x.clone() for x in policy.buffers()]
    replayed(config, policy, rollout, T)
    assert not torch.equal(before[0], next(policy.buffers())), "other calls draw as ever"


PLANTED = """
import os, signal, threading
from fwp_rl.agents import ppo
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.cores.rnn import GRUConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.models.encoders import MLPConfig
from fwp_rl.runs import signals

honest, signalled = ppo.ppo_loss, threading.Event()

def loss(*args):
    losses = honest(*args)
    if threading.current_thread() is threading.main_thread():
        signalled.wait(60)  # until the other thread has had a shard
    elif not signalled.is_set():
        os.kill(os.getpid(), signal.SIGINT)
        # until the handler has run: Python makes one of two that come before
        while not signals._active[-1]._interrupts:
            pass
        os.kill(os.getpid(), signal.SIGINT)
    return losses

ppo.ppo_loss = loss
PPOConfig(env=RecallConfig(), encoder=MLPConfig(), core=GRUConfig(hidden_size=8), num_envs=8,
          rollout_length=8, gradient_shards=2, learner_threads=2, plain=True, run_dir="run").train()
"""


@pytest.mark.slow
def test_ctrl_c_twice_leaves_an_update_in_its_midst(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PLANTED]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "KeyboardInterrupt" in ended.stderr
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "stopped"
    (first,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert first.name == "step_000000000000"
