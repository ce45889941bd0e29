"""A policy as torch.compile and torch.export take it."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.export import Dim

from fwp_rl.cores import CORES
from fwp_rl.models import EncoderConfig, MLPConfig, NatureCNNConfig, Policy, PolicyConfig
from fwp_rl.types import EnvSpec, Observation, PolicyOutput

VECTOR = EnvSpec(name="toy/vector", observation_shape=(6,), num_actions=4)
IMAGE = EnvSpec(name="toy/image", observation_shape=(2, 36, 36), num_actions=4)


def make(spec: EnvSpec, encoder: EncoderConfig) -> Policy:
    torch.manual_seed(0)
    core = CORES["delta_net"](layers=1, hidden_size=8, heads=2, feedforward_size=8)
    config = PolicyConfig(encoder=encoder, core=core, last_action=True, precision="float32")
    return Policy(config, spec).eval()


def observation(spec: EnvSpec, steps: int, columns: int) -> Observation:
    torch.manual_seed(1)
    shape = (steps, columns)
    obs = torch.randn(*shape, *spec.observation_shape)
    reset = torch.arange(steps * columns).reshape(shape) % 3 == 0
    return Observation(
        obs=obs if spec is VECTOR else (40 * obs).abs().clamp(max=255).to(torch.uint8),
        reset=reset,
        last_reward=torch.randn(shape).clamp(-1, 1).masked_fill(reset, 0),
        last_action=torch.randint(4, shape).masked_fill(reset, -1),
    )


def fields(structure: Observation | PolicyOutput) -> dict[str, Any]:
    return {field.name: getattr(structure, field.name) for field in dataclasses.fields(structure)}


def same(actual: PolicyOutput, expected: PolicyOutput) -> None:
    assert type(actual) is PolicyOutput
    torch.testing.assert_close(fields(actual), fields(expected))


LOAD = """
import sys
import torch
import fwp_rl.models
from fwp_rl.types import Observation

given = torch.load("given")
with torch.no_grad():
    output = torch.export.load("policy.pt2").module()(Observation(**given["seen"]), given["state"])
answer = {"logits": output.logits, "value": output.value, "state": output.state}
torch.testing.assert_close(answer, given["expected"])
"""


@pytest.mark.parametrize(
    ("spec", "encoder"),
    [
        (VECTOR, MLPConfig()),
        pytest.param(IMAGE, NatureCNNConfig(features=10), marks=pytest.mark.slow),
    ],
)
def test_a_saved_step_runs_in_another_process(
    spec: EnvSpec, encoder: EncoderConfig, tmp_path: Path
) -> None:
    policy, columns = make(spec, encoder), Dim("columns", min=1, max=1024)
    shapes = [{1: columns}] * 4, ({0: columns},)
    with torch.no_grad():
        inputs = observation(spec, 1, 3), policy.initial_state(3)
        program = torch.export.export(policy, inputs, dynamic_shapes=shapes)
        torch.export.save(program, tmp_path / "policy.pt2")
        # other numbers, and another number of them
        seen, state = observation(spec, 1, 5), (torch.randn(5, 2, 4, 4),)
        output = policy(seen, state)
        same(program.module()(seen, state), output)
    given = {"seen": fields(seen), "state": state, "expected": fields(output)}
    torch.save(given, tmp_path / "given")
    ran = subprocess.run(
        [sys.executable, "-c", LOAD], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert "Error" not in ran.stderr, ran.stderr  # torch reports what it could not read safely


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_a_policy_compiles_whole(precision: str) -> None:
    policy = make(VECTOR, MLPConfig())
    policy.config = dataclasses.replace(policy.config, precision=precision)  # type: ignore[arg-type]
    torch.compiler.reset()
    compiled = torch.compile(policy, fullgraph=True, backend="aot_eager")
    seen, state = observation(VECTOR, 4, 3), policy.initial_state(3)
    output = compiled(seen, state)
    same(output, policy(seen, state))
    output.logits.square().sum().backward()
    assert all(p.grad is not None for n, p in policy.named_parameters() if "value" not in n)
