"""Saved policies: folders that rebuild a network alone.

    policy/
        policy.safetensors   parameters and buffers
        config.json          policy class and config, action rule, environment spec and config,
                             metadata, probe
        manifest.json        sizes and SHA-256

The *probe* is what the network answers to a fixed observation sequence, computed when it was
saved and again when it was loaded: weights in a network that computes something else are refused.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as dump_safetensors
from torch import Tensor

import fwp_rl
from fwp_rl.config import ConfigError
from fwp_rl.envs import EnvConfig
from fwp_rl.models.actions import ActionRule
from fwp_rl.models.policy import POLICIES, Policy, PolicyConfig
from fwp_rl.registry import UnknownNameError, named, shown
from fwp_rl.runs.directory import check_policy_folder, policy_folder
from fwp_rl.runs.files import (
    JSON_BYTES,
    CheckpointError,
    SealedFolder,
    dump_json,
    parse_json,
    read_folder,
    read_json,
    write_folder,
)
from fwp_rl.runs.keeping import POLICY, TRAINER, open_checkpoint
from fwp_rl.runs.presets import (
    action_rule_from_dict,
    config_to_dict,
    env_config_from_dict,
    policy_config_from_dict,
)
from fwp_rl.runs.schema import Probe, SavedConfig, checked
from fwp_rl.runs.tensors import (
    Shapes,
    at_most_parameters,
    check_shapes,
    load_tensors,
    module_tensors,
    read_shapes,
    read_tensors,
)
from fwp_rl.types import EnvSpec, Observation

__all__ = [
    "SavedPolicy",
    "load_env",
    "load_policy",
    "load_saved",
    "policy_name",
    "save_policy",
    "saved_step",
]

CONFIG = "config.json"

MOST_STATE = 1 << 25
"""Numbers in the recurrent state of two columns, beside eight times those of the weights: what a
config may ask of the probe without a weight for it."""


@dataclass(frozen=True, slots=True)
class _Environment:
    """The config of an environment, as a policy folder has it."""

    fields: Mapping[str, Any]
    source: Path

    def config(self) -> EnvConfig:
        return env_config_from_dict(self.fields, source=f"{self.source}: env")


@dataclass(frozen=True, kw_only=True)
class SavedPolicy:
    """A policy, on the CPU and in eval mode, and what it was trained on."""

    policy: Policy
    metadata: dict[str, Any]
    path: Path
    """The folder that holds the weights."""
    environment: _Environment
    """What it was trained on, as it was written down."""

    @cached_property
    def env(self) -> EnvConfig:
        """The config of what it was trained on, which the policy itself does not need: ConfigError
        where this process does not have that environment."""
        return self.environment.config()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Description:
    """``config.json``, read."""

    network: type[Policy]
    policy: PolicyConfig
    actions: ActionRule
    spec: EnvSpec
    environment: _Environment
    metadata: dict[str, Any]
    probe: Probe
    source: Path

    def check(self, shapes: Shapes, source: Path) -> None:
        """CheckpointError unless tensors of these shapes are the weights of this network, which is
        built without memory for them to find out."""
        try:
            with at_most_parameters(len(shapes), source=str(self.source)), torch.device("meta"):
                policy = self.network(self.policy, self.spec)
                state = policy.initial_state(2, "meta")
        except (CheckpointError, ConfigError):
            raise
        except (RuntimeError, TypeError, ValueError, OverflowError, MemoryError) as error:
            raise self._failed("describes a network that cannot be built", error) from None
        check_shapes(shapes, policy, source=str(source))
        most = MOST_STATE + 8 * sum(map(math.prod, shapes.values()))
        numbers = sum(leaf.numel() for leaf in state)
        if numbers > most:
            raise CheckpointError(
                f"{self.source}: describes a memory of {numbers:,} numbers for {len(shapes)} "
                f"weights, expected at most {most:,}"
            )

    def build(self, weights: Mapping[str, Tensor], *, path: Path) -> SavedPolicy:
        """The network with these weights, whose shapes have been checked."""
        try:
            with torch.random.fork_rng(devices=[]):  # the caller's random stream stays as it is
                policy = self.network(self.policy, self.spec)
        except (RuntimeError, MemoryError) as error:
            raise self._failed("describes a network that cannot be built", error) from None
        load_tensors(policy, weights, source=str(path))
        policy.action_rule = self.actions
        return SavedPolicy(
            policy=policy.eval(),
            metadata=self.metadata,
            path=path,
            environment=self.environment,
        )

    def check_probe(self, policy: Policy, folder: Path) -> None:
        """CheckpointError where the network does not answer as the one that was saved did."""
        try:
            computed = _answer(policy)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise self._failed("describes a network that does not run", error) from None
        for name, answer in computed.items():
            then, now = np.array(getattr(self.probe, name)), np.array(answer)
            # kernels and CPUs may differ in rounding; a wrong network differs by far more
            limit = 1e-4 + 1e-3 * np.abs(then).max(initial=0)
            difference = np.abs(now - then).max() if now.shape == then.shape else np.inf
            if not difference <= limit:
                raise CheckpointError(
                    f"{folder}: the rebuilt network does not compute what the saved one did: its "
                    f"{name} differ by {difference:.2g} where {limit:.2g} is rounding. This fwp_rl "
                    f"({fwp_rl.__version__}) defines some part of it otherwise than the one that "
                    "saved it, as manifest.json tells"
                )

    def _failed(self, what: str, error: Exception) -> CheckpointError:
        return CheckpointError(f"{self.source}: {what}: {shown(str(error))}")


def save_policy(
    folder: str | Path, policy: Policy, *, env: EnvConfig, metadata: Mapping[str, Any]
) -> None:
    """Create or replace a policy folder.

    env       the environment that the policy was trained on
    metadata  anything JSON can hold; ``step`` is the environment step of the weights

    CheckpointError where a parameter, or what the network answers, is not finite.
    """
    folder, weights = Path(folder), module_tensors(policy)
    probe = _answer(copy.deepcopy(policy).to("cpu"))
    if not all(math.isfinite(number) for answer in probe.values() for number in answer):
        raise CheckpointError(
            "the network's answers hold NaN or infinity: not saved; older files are intact"
        )
    config = {
        "network": policy_name(policy),
        # the config of a training run is a policy config with more fields
        "policy": config_to_dict(policy.config, PolicyConfig),
        "actions": config_to_dict(policy.action_rule),
        "spec": asdict(policy.spec),
        "env": config_to_dict(env),
        "metadata": dict(metadata),
        "probe": probe,
    }
    data = dump_json(config)
    checked(SavedConfig, parse_json(data, folder / CONFIG), folder / CONFIG)  # can be read again
    files = {POLICY: dump_safetensors(weights), CONFIG: data}
    write_folder(folder, files, kind="policy", about={})


def policy_name(policy: Policy) -> str:
    """The name of a policy's class, by which a folder is loaded again. ConfigError where it has
    none."""
    try:
        return POLICIES.name_of(type(policy))
    except UnknownNameError:
        raise ConfigError(
            f"policy: {type(policy).__name__} has no name to be loaded by: put "
            "@POLICIES.register('my_policy') (fwp_rl.models) over the class"
        ) from None


def load_policy(path: str | Path) -> Policy:
    """The policy in a policy folder, a run directory or a checkpoint of a run; on the CPU, in
    eval mode. CheckpointError where there is none, or where it is damaged."""
    return load_saved(path).policy


def load_saved(path: str | Path) -> SavedPolicy:
    """As ``load_policy``, with the environment's config and the metadata."""
    path = Path(path)
    try:
        if (path / TRAINER).is_file():
            return _load_checkpoint(path)
        folder = policy_folder(path)
        try:
            description, weights = _read(folder)
        except CheckpointError:
            time.sleep(0.1)  # a trainer may just have replaced it between two of its files
            description, weights = _read(folder)
    except OSError as error:
        raise CheckpointError(f"{named(str(path))}: cannot be read: {error.strerror}") from None
    saved = description.build(weights, path=folder)
    description.check_probe(saved.policy, folder)
    return saved


def load_env(path: str | Path) -> EnvConfig:
    """The config of the environment that the policy at such a path was trained on. Neither weights
    nor network are looked at. CheckpointError as for ``load_policy``, ConfigError where this
    process does not have that environment."""
    path = Path(path)
    try:
        is_checkpoint = (path / TRAINER).is_file()
        folder = _run_of(path) / "policy" if is_checkpoint else policy_folder(path)
        saved = _saved_config(_open(folder))
    except OSError as error:
        raise CheckpointError(f"{named(str(path))}: cannot be read: {error.strerror}") from None
    return _Environment(saved.env, folder / CONFIG).config()


def saved_step(folder: Path) -> int | None:
    """The environment step of a policy folder's weights, without reading them; None where there is
    no such folder, or it does not say."""
    for place in (folder, folder.with_name(f"{folder.name}.old")):  # see files.write_folder
        try:
            step = read_json(place / CONFIG)["metadata"]["step"]
        except (OSError, CheckpointError, KeyError, TypeError):
            continue
        return step if type(step) is int else None
    return None


def _load_checkpoint(path: Path) -> SavedPolicy:
    """A checkpoint's weights, in the network that its run's policy folder describes."""
    sealed, about = open_checkpoint(path)
    description = _describe(_open(_run_of(path) / "policy"))
    description.check(read_shapes(sealed, POLICY), path)
    saved = description.build(read_tensors(sealed, POLICY), path=path)
    saved.metadata.update(step=about.step, score=about.score)
    return saved


def _run_of(checkpoint: Path) -> Path:
    """The run directory that a checkpoint lies in."""
    return checkpoint.absolute().parent.parent


def _read(folder: Path) -> tuple[_Description, dict[str, Tensor]]:
    sealed = _open(folder)
    description = _describe(sealed)
    description.check(read_shapes(sealed, POLICY), folder)
    return description, read_tensors(sealed, POLICY)


def _open(folder: Path) -> SealedFolder:
    check_policy_folder(folder)
    return read_folder(folder, kind="policy", expected=(POLICY, CONFIG))


def _saved_config(sealed: SealedFolder) -> SavedConfig:
    source = sealed.path / CONFIG
    return checked(SavedConfig, parse_json(sealed.read(CONFIG, most=JSON_BYTES), source), source)


def _describe(sealed: SealedFolder) -> _Description:
    source = sealed.path / CONFIG
    config = _saved_config(sealed)
    spec = config.spec
    try:
        network = POLICIES[config.network]
    except UnknownNameError as error:
        raise CheckpointError(f"{source}: network: {error}") from None
    return _Description(
        network=network,
        policy=policy_config_from_dict(config.policy, source=f"{source}: policy"),
        actions=action_rule_from_dict(config.actions, source=f"{source}: actions"),
        spec=EnvSpec(
            name=spec.name,
            observation_shape=tuple(spec.observation_shape),
            num_actions=spec.num_actions,
            observation_dtype=spec.observation_dtype,
        ),
        environment=_Environment(config.env, source),
        metadata=dict(config.metadata),
        probe=config.probe,
        source=source,
    )


@torch.no_grad()
def _answer(policy: Policy) -> dict[str, list[float]]:
    """The probe: logits and values, flattened, of four steps in two columns, with a reset inside.

    The inputs come from integer arithmetic: no generator promises its numbers for all time.
    """
    policy = copy.copy(policy).eval()
    policy.config = dataclasses.replace(policy.config, precision="float32")
    time_steps, columns = 4, 2
    shape = (time_steps, columns, *policy.spec.observation_shape)
    noise = _noise(math.prod(shape)).reshape(shape)
    is_image = policy.spec.observation_dtype == "uint8"
    reset = torch.zeros(time_steps, columns, dtype=torch.bool)
    reset[0], reset[2, 1] = True, True
    index = torch.arange(time_steps * columns).reshape(time_steps, columns)
    output = policy(
        Observation(
            obs=noise if is_image else noise / 127.5 - 1,
            reset=reset,
            last_reward=(index % 3 - 1.0).masked_fill(reset, 0),
            last_action=(index % policy.spec.num_actions).masked_fill(reset, -1),
        ),
        policy.initial_state(columns),
    )
    return {"logits": output.logits.flatten().tolist(), "value": output.value.flatten().tolist()}


def _noise(count: int) -> Tensor:
    """Bytes that look random, made in pieces: as whole numbers they would take eight times the
    memory."""
    noise = torch.empty(count, dtype=torch.uint8)
    for start in range(0, count, 1 << 20):
        index = torch.arange(start, min(start + (1 << 20), count))
        noise[start : start + len(index)] = (index * 2654435761 >> 16).remainder(256)
    return noise
