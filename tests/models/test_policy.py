import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fwp_rl.config import ConfigError
from fwp_rl.cores import CORES
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.models import MLPConfig, NatureCNNConfig, Policy, PolicyConfig
from fwp_rl.models.policy import has_bfloat16
from fwp_rl.runs.policy import load_policy, save_policy
from fwp_rl.types import EnvSpec, Observation

STEPS, COLUMNS, ACTIONS = 5, 3, 4
VECTOR = EnvSpec(name="toy/vector", observation_shape=(6,), num_actions=ACTIONS)
IMAGE = EnvSpec(name="toy/image", observation_shape=(2, 36, 36), num_actions=ACTIONS)


def policy(spec: EnvSpec = VECTOR, **options: Any) -> Policy:
    torch.manual_seed(0)
    encoder = MLPConfig(hidden_sizes=(10,)) if spec is VECTOR else NatureCNNConfig(features=10)
    return Policy(PolicyConfig(**({"encoder": encoder, "precision": "float32"} | options)), spec)


def observation(spec: EnvSpec = VECTOR) -> Observation:
    torch.manual_seed(1)
    shape = (STEPS, COLUMNS)
    obs = torch.randn(*shape, *spec.observation_shape)
    reset = torch.zeros(shape, dtype=torch.bool)
    reset[0, 0] = reset[2, 1] = True
    return Observation(
        obs=obs if spec is VECTOR else (40 * obs).abs().clamp(max=255).to(torch.uint8),
        reset=reset,
        last_reward=torch.randn(shape).clamp(-1, 1).masked_fill(reset, 0),
        last_action=torch.randint(ACTIONS, shape).masked_fill(reset, -1),
    )


def step(o: Observation, t: int) -> Observation:
    part = slice(t, t + 1)
    return Observation(
        obs=o.obs[part],
        reset=o.reset[part],
        last_reward=o.last_reward[part],
        last_action=o.last_action[part],
    )


def seen_by_core(policy: Policy, o: Observation) -> Tensor:
    seen: list[Tensor] = []
    policy.core.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    policy(o, policy.initial_state(COLUMNS))
    return seen[0]


@pytest.mark.parametrize(
    ("core", "actions", "total"),
    [
        ("feedforward", 18, 1_094_134),
        ("feedforward", 6, 1_091_038),
        ("lstm", 18, 1_621_475),
        ("lstm", 6, 1_618_391),
        ("linear_transformer", 18, 1_520_227),
        ("linear_transformer", 6, 1_518_679),
        ("delta_net", 18, 1_521_251),
        ("delta_net", 6, 1_519_703),
    ],
)
def test_default_policy_has_the_authors_size(core: str, actions: int, total: int) -> None:
    spec = EnvSpec(name="atari/any", observation_shape=(4, 84, 84), num_actions=actions)
    built = Policy(PolicyConfig(core=CORES[core]()), spec)
    assert built.core.input_size == 257
    assert sum(p.numel() for p in built.parameters()) == total


@pytest.mark.parametrize("spec", [VECTOR, IMAGE], ids=["vector", "image"])
@pytest.mark.parametrize("core", CORES)
def test_shapes_and_dtypes(core: str, spec: EnvSpec) -> None:
    built = policy(spec, core=CORES[core]())
    state = built.initial_state(COLUMNS)
    output = built(observation(spec), state)
    assert output.logits.shape == (STEPS, COLUMNS, ACTIONS)
    assert output.value.shape == (STEPS, COLUMNS)
    assert output.logits.dtype == output.value.dtype == torch.float32
    assert [leaf.shape for leaf in output.state] == [leaf.shape for leaf in state]


@pytest.mark.parametrize("core", CORES)
def test_acting_is_learning_with_one_step(core: str) -> None:
    built = policy(core=CORES[core](), last_action=True)
    o, state = observation(), built.initial_state(COLUMNS)
    whole = built(o, state)
    for t in range(STEPS):
        output = built(step(o, t), state)
        state = output.state
        torch.testing.assert_close(output.logits[0], whole.logits[t], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(output.value[0], whole.value[t], rtol=1e-4, atol=1e-5)


def test_columns_can_be_picked() -> None:
    built = policy(IMAGE)
    o, which = observation(IMAGE), torch.tensor([2, 0])
    whole = built(o, built.initial_state(COLUMNS))
    picked = Observation(
        obs=o.obs[:, which],
        reset=o.reset[:, which],
        last_reward=o.last_reward[:, which],
        last_action=o.last_action[:, which],
    )
    output = built(picked, built.initial_state(2))
    torch.testing.assert_close(output.logits, whole.logits[:, which], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("last_reward", [True, False])
@pytest.mark.parametrize("last_action", [True, False])
def test_core_input(last_reward: bool, last_action: bool) -> None:
    built = policy(last_reward=last_reward, last_action=last_action)
    o = observation()
    x = seen_by_core(built, o)
    assert x.shape[-1] == 10 + last_reward + ACTIONS * last_action
    torch.testing.assert_close(x[2, 1, :10], built.encoder(o.obs[2, 1:2])[0])
    if last_reward:
        assert torch.equal(x[..., 10], o.last_reward)
    if last_action:
        one_hot = x[..., -ACTIONS:]
        assert not one_hot[o.reset].any()
        assert torch.equal(one_hot[~o.reset].argmax(-1), o.last_action[~o.reset])
        assert torch.equal(one_hot[~o.reset].sum(-1), torch.ones(int((~o.reset).sum())))


def test_heads_start_small_and_without_bias() -> None:
    built = policy()
    assert torch.linalg.svdvals(built.policy_head.weight).tolist() == pytest.approx([0.01] * 4)
    assert torch.linalg.svdvals(built.value_head.weight).tolist() == pytest.approx([1.0])
    assert not built.policy_head.bias.any()
    assert not built.value_head.bias.any()


def test_gradients_reach_every_parameter_and_the_state() -> None:
    built = policy(IMAGE, last_action=True)
    state = tuple(leaf.requires_grad_() for leaf in built.initial_state(COLUMNS))
    output = built(observation(IMAGE), state)
    (output.logits.square().sum() + output.value.square().sum()).backward()
    for name, p in built.named_parameters():
        assert p.grad is not None, name
        assert p.grad.any(), name
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in state)


@pytest.mark.parametrize("last_reward", [True, False])
def test_only_the_encoder_runs_in_bfloat16(last_reward: bool) -> None:
    exact = policy(IMAGE, precision="float32", last_reward=last_reward)
    rough = policy(IMAGE, precision="bfloat16", last_reward=last_reward)
    rough.load_state_dict(exact.state_dict())
    dtypes: dict[str, torch.dtype] = {}
    for name, module in rough.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: dtypes.__setitem__(name, output.dtype)
            )
    o, state = observation(IMAGE), rough.initial_state(COLUMNS)
    output = rough(o, state)
    for name, dtype in dtypes.items():
        assert dtype == (torch.bfloat16 if name.startswith("encoder.") else torch.float32), name
    assert seen_by_core(rough, o).dtype == torch.float32
    assert all(leaf.dtype == torch.float32 for leaf in output.state)
    expected = exact(o, state)
    assert not torch.equal(output.value, expected.value)
    torch.testing.assert_close(output.value, expected.value, rtol=0, atol=0.05)


@pytest.mark.parametrize(("capability", "expected"), [("avx512_bf16", True), ("avx2", False)])
def test_auto_precision_asks_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capability: str, expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True}, raising=False)
    assert has_bfloat16(torch.device("cpu")) == expected
    assert not has_bfloat16(torch.device("meta"))
    encoded = []
    built = policy(IMAGE, precision="auto")
    built.encoder.register_forward_hook(lambda module, inputs, output: encoded.append(output.dtype))
    built(observation(IMAGE), built.initial_state(COLUMNS))
    assert encoded == [torch.bfloat16 if expected else torch.float32]


def test_clip_reward() -> None:
    reward = torch.tensor([-7.0, -0.5, 0.0, 3.0])
    assert policy().clip_reward(reward).tolist() == [-1.0, -0.5, 0.0, 1.0]
    assert policy(reward_clip=2.5).clip_reward(reward).tolist() == [-2.5, -0.5, 0.0, 2.5]
    assert torch.equal(policy(reward_clip=None).clip_reward(reward), reward)


def test_wrong_observations_are_explained() -> None:
    built = policy()
    o = observation()
    o.obs = o.obs[..., 1:]
    with pytest.raises(ValueError, match=r"obs has shape \(5, 3, 5\), expected .*toy/vector"):
        built(o, built.initial_state(COLUMNS))


def test_a_policy_for_images_of_floats_comes_back(tmp_path: Path) -> None:
    spec = dataclasses.replace(IMAGE, observation_dtype="float32")
    built = policy(spec)
    save_policy(tmp_path / "policy", built, env=RecallConfig(), metadata={})
    assert load_policy(tmp_path / "policy").spec == spec


def test_a_spec_says_what_an_observation_is() -> None:
    assert IMAGE.is_image
    assert IMAGE.observation_dtype == "uint8", "as specs have it that were saved without it"
    assert not VECTOR.is_image
    assert VECTOR.observation_dtype == "float32"
    with pytest.raises(ValueError, match=r"got uint8 for observations of shape \(6,\)"):
        dataclasses.replace(VECTOR, observation_dtype="uint8")
    with pytest.raises(ValueError, match="got 'float64', expected uint8 or float32"):
        dataclasses.replace(VECTOR, observation_dtype="float64")  # type: ignore[arg-type]


def test_config_is_checked_in_subclasses_too() -> None:
    @dataclass(frozen=True, kw_only=True)
    class TrainingConfig(PolicyConfig):
        steps: int = 1

    assert Policy(TrainingConfig(encoder=MLPConfig()), VECTOR).config.reward_clip == 1.0
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"reward_clip: got .*, expected more than 0"):
            TrainingConfig(reward_clip=bad)
    with pytest.raises(ConfigError, match="precision: got 'bf16'"):
        PolicyConfig(precision="bf16")  # type: ignore[arg-type]
