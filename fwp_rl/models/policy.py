"""Policy = encoder → core → heads, whose answer is (logits, value).

The encoder sees all T·B observations as one batch, the core [T, B]. The core's input is the
features ++ the clipped last reward ++ the one-hot last action, the last two as configured.
Which action is played is a function of the logits, in ``actions.py``.

``Policy`` itself is an actor-critic; ``q_network.py`` has other heads. A policy class has a name in
``POLICIES``, by which a saved policy is built again.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from fwp_rl.config import Range, check_ranges
from fwp_rl.cores import CoreConfig, build_core
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.models.actions import ActionRule, Sampled
from fwp_rl.models.base import EncoderConfig
from fwp_rl.models.encoders import ImpalaResnetConfig
from fwp_rl.registry import Registry
from fwp_rl.types import EnvSpec, Observation, PolicyOutput, State

__all__ = ["POLICIES", "Policy", "PolicyConfig", "has_bfloat16", "head"]


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """What a policy is made of."""

    encoder: EncoderConfig = field(default_factory=ImpalaResnetConfig)
    """Network from an observation to features."""
    core: CoreConfig = field(default_factory=DeltaNetConfig)
    """Memory between the features and the heads."""
    last_reward: bool = True
    """Give the core the last reward, clipped."""
    last_action: bool = False
    """Give the core the last action, one-hot."""
    reward_clip: Annotated[float | None, Range(0, above=True)] = 1.0
    """Rewards are clamped to [-x, x] for learning and as the core's input; none: raw rewards."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the encoder; auto is bfloat16 where the hardware computes in it, else float32.
    Core, heads and losses are always float32."""
    matmul_precision: Literal["float32", "tf32"] = "float32"
    """Products of float32 on a GPU, the same for every core: tf32 rounds their factors to 10 bits
    of mantissa for the sake of speed, on NVIDIA's from 2020 on. Not in the fast weight kernels, and
    never on a CPU."""

    def __post_init__(self) -> None:
        check_ranges(self)


# torch.export passes the two through, and an exported policy keeps and gives back both.
for _structure in (Observation, PolicyOutput):
    torch.export.register_dataclass(
        _structure, serialized_type_name=f"{_structure.__module__}.{_structure.__qualname__}"
    )
torch.serialization.add_safe_globals([Observation])  # an exported program stores its example input


POLICIES: "Registry[Policy]" = Registry("policy", "fwp_rl.policies")


@POLICIES.register("actor_critic")
class Policy(nn.Module):
    """An actor-critic with a memory, built for one kind of environment.

    A subclass of other heads fills in ``_build_heads`` and ``_answer``, and has a name of its own
    in ``POLICIES``.
    """

    action_rule: ActionRule = Sampled()
    """How it plays where nothing else is asked for; saved with it."""

    def __init__(self, config: PolicyConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self._obs_dtype = torch.uint8 if spec.observation_dtype == "uint8" else torch.float32
        self.encoder = config.encoder.build(spec.observation_shape)
        input_size = self.encoder.output_size + config.last_reward
        if config.last_action:
            input_size += spec.num_actions
        self.core = build_core(config.core, input_size)
        self._build_heads(self.core.output_size, spec.num_actions)

    def _build_heads(self, input_size: int, num_actions: int) -> None:
        """Make the modules that ``_answer`` uses."""
        self.policy_head = head(input_size, num_actions, gain=0.01)
        self.value_head = head(input_size, 1, gain=1.0)

    def _answer(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [T, B, A] and values [T, B] of the core's output [T, B, D]."""
        return self.policy_head(y), self.value_head(y).squeeze(-1)

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        """The core's state at the start of an episode, by default on the policy's own device."""
        return self.core.initial_state(batch_size, device or self.device)

    def forward(self, observation: Observation, state: State) -> PolicyOutput:
        """Logits and values of T steps; acting is T = 1. Gradients reach the state.

        Raises ValueError where the observation is not of the shape and dtype that the policy was
        built for.
        """
        obs = observation.obs
        if obs.dtype != self._obs_dtype:
            raise ValueError(
                f"obs has dtype {obs.dtype}, expected {self._obs_dtype} for {self.spec.name}"
            )
        expected = (*observation.reset.shape, *self.spec.observation_shape)
        if obs.shape != expected:
            raise ValueError(
                f"obs has shape {tuple(obs.shape)}, expected [T, B, *observation_shape] = "
                f"{expected} for {self.spec.name}"
            )
        bfloat16 = self.uses_bfloat16(obs.device)
        with torch.autocast(obs.device.type, torch.bfloat16, enabled=bfloat16):
            features = self.encoder(obs.flatten(0, 1))
        inputs = [features.float().unflatten(0, obs.shape[:2])]
        if self.config.last_reward:
            inputs.append(observation.last_reward.unsqueeze(-1))
        if self.config.last_action:
            actions = torch.arange(self.spec.num_actions, device=obs.device)
            inputs.append((observation.last_action.unsqueeze(-1) == actions).float())
        y, state = self.core(torch.cat(inputs, dim=-1), state, observation.reset)
        logits, value = self._answer(y)
        return PolicyOutput(logits=logits, value=value, state=state)

    def preferences(self, logits: Tensor) -> Tensor:
        """How much each action is preferred, 0 to 1, for pictures: here its probability.

        logits  [..., A]
        """
        return logits.softmax(-1)

    def clip_reward(self, reward: Tensor) -> Tensor:
        """The reward as this policy learns from it and sees it: clamped to its reward_clip."""
        limit = self.config.reward_clip
        return reward if limit is None else reward.clamp(-limit, limit)

    def uses_bfloat16(self, device: torch.device) -> bool:
        """Whether the encoder computes in bfloat16 there, as ``precision`` says."""
        if self.config.precision == "auto":
            return has_bfloat16(device)
        return self.config.precision == "bfloat16"


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices in bfloat16: a CPU with AVX512-BF16 or AMX, a CUDA GPU
    of compute capability 8 or later. Elsewhere bfloat16 is emulated and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    if hasattr(torch.cpu, "get_capabilities"):  # public, but younger than torch 2.10
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return torch.cpu._is_avx512_bf16_supported()


# The machine's answer is a constant to torch.compile. torch.compiler.assume_constant_result says
# so too, but imports the compiler, which every process would wait for.
has_bfloat16._dynamo_marked_constant = True  # type: ignore[attr-defined]


def head(input_size: int, output_size: int, *, gain: float) -> nn.Linear:
    """A linear layer of orthogonal rows of length ``gain``, without bias at the start."""
    layer = nn.Linear(input_size, output_size)
    nn.init.orthogonal_(layer.weight, gain=gain)
    nn.init.zeros_(layer.bias)
    return layer
