"""Saved policies: folders that rebuild a network alone.

    policy/
        policy.safetensors   parameters and buffers
        config.json          policy config, environment spec and config, metadata, probe
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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as dump_safetensors
from torch import Tensor

import fwp_rl
from fwp_rl.envs import EnvConfig
from fwp_rl.models.policy import Policy, PolicyConfig
from fwp_rl.runs.checkpoint import (
    POLICY,
    TRAINER,
    CheckpointError,
    load_checkpoint,
    load_tensors,
    module_tensors,
    read_tensors,
)
from fwp_rl.runs.directory import check_policy_folder, policy_folder
from fwp_rl.runs.files import SealedFolder, dump_json, parse_json, read_folder, write_folder
from fwp_rl.runs.presets import config_to_dict, env_config_from_dict, policy_config_from_dict
from fwp_rl.types import EnvSpec, Observation

__all__ = ["SavedPolicy", "load_policy", "load_saved", "save_policy", "saved_step"]

CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedPolicy:
    """A policy, on the CPU and in eval mode, and what it was trained on."""

    policy: Policy
    env: EnvConfig
    metadata: dict[str, Any]
    path: Path
    """The folder that holds the weights."""


def save_policy(
    folder: str | Path, policy: Policy, *, env: EnvConfig, metadata: Mapping[str, Any]
) -> None:
    """Create or replace a policy folder.

    env       the environment that the policy was trained on
    metadata  anything JSON can hold; ``step`` is the environment step of the weights
    """
    config = {
        # the config of a training run is a policy config with more fields
        "policy": config_to_dict(policy.config, PolicyConfig),
        "spec": asdict(policy.spec),
        "env": config_to_dict(env),
        "metadata": dict(metadata),
        "probe": _answer(copy.deepcopy(policy).to("cpu")),
    }
    files = {POLICY: dump_safetensors(module_tensors(policy)), CONFIG: dump_json(config)}
    write_folder(Path(folder), files, kind="policy", about={})


def load_policy(path: str | Path) -> Policy:
    """The policy in a policy folder, a run directory or a checkpoint of a run; on the CPU, in
    eval mode. CheckpointError where there is none, or where it is damaged."""
    return load_saved(path).policy


def load_saved(path: str | Path) -> SavedPolicy:
    """As ``load_policy``, with the environment's config and the metadata."""
    path = Path(path)
    if (path / TRAINER).is_file():
        return _load_checkpoint(path)
    folder = policy_folder(path)
    files = _read(folder).files
    config = parse_json(files[CONFIG], folder / CONFIG)
    weights = read_tensors(files[POLICY], folder / POLICY)
    saved = _rebuild(config, folder / CONFIG, weights, path=folder)
    _check_probe(config["probe"], _answer(saved.policy), folder)
    return saved


def saved_step(folder: Path) -> int | None:
    """The environment step of a policy folder's weights, without reading them; None where there is
    no such folder, or it does not say."""
    for place in (folder, folder.with_name(f"{folder.name}.old")):  # see files.write_folder
        try:
            step = parse_json((place / CONFIG).read_bytes(), place / CONFIG)["metadata"]["step"]
        except (OSError, CheckpointError, KeyError, TypeError):
            continue
        return step if isinstance(step, int) else None
    return None


def _load_checkpoint(path: Path) -> SavedPolicy:
    """A checkpoint's weights, in the network that its run's policy folder describes."""
    checkpoint = load_checkpoint(path)
    folder = path.absolute().parents[1] / "policy"
    config = parse_json(_read(folder).files[CONFIG], folder / CONFIG)
    saved = _rebuild(config, folder / CONFIG, checkpoint.policy, path=path)
    saved.metadata.update(step=checkpoint.step, score=checkpoint.score)
    return saved


def _read(folder: Path) -> SealedFolder:
    check_policy_folder(folder)
    try:
        return read_folder(folder, kind="policy", expected=(POLICY, CONFIG))
    except (CheckpointError, OSError):
        time.sleep(0.1)  # a trainer may just have replaced the folder between two of its files
        return read_folder(folder, kind="policy", expected=(POLICY, CONFIG))


def _rebuild(
    config: Mapping[str, Any], source: Path, weights: Mapping[str, Tensor], *, path: Path
) -> SavedPolicy:
    missing = {"policy", "spec", "env", "metadata", "probe"} - config.keys()
    if missing:
        raise CheckpointError(f"{source}: lacks {', '.join(sorted(missing))}")
    try:
        fields = config["spec"]
        spec = EnvSpec(**fields | {"observation_shape": tuple(fields["observation_shape"])})
        metadata = dict(config["metadata"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: spec or metadata cannot be read: {error!r}") from None
    policy_config = policy_config_from_dict(config["policy"], source=f"{source}: policy")
    env = env_config_from_dict(config["env"], source=f"{source}: env")
    with torch.random.fork_rng(devices=[]):  # initial weights must not cost the caller's stream
        policy = Policy(policy_config, spec)
    load_tensors(policy, weights, source=str(path))
    return SavedPolicy(policy=policy.eval(), env=env, metadata=metadata, path=path)


@torch.no_grad()
def _answer(policy: Policy) -> dict[str, list[float]]:
    """The probe: logits and values, flattened, of four steps in two columns, with a reset inside.

    The inputs come from integer arithmetic: no generator promises its numbers for all time.
    """
    policy = copy.copy(policy).eval()
    policy.config = dataclasses.replace(policy.config, precision="float32")
    time_steps, columns = 4, 2
    shape = (time_steps, columns, *policy.spec.observation_shape)
    noise = (torch.arange(math.prod(shape)) * 2654435761 >> 16).remainder(256).reshape(shape)
    is_image = policy.spec.observation_dtype == "uint8"
    reset = torch.zeros(time_steps, columns, dtype=torch.bool)
    reset[0], reset[2, 1] = True, True
    index = torch.arange(time_steps * columns).reshape(time_steps, columns)
    output = policy(
        Observation(
            obs=noise.to(torch.uint8) if is_image else noise / 127.5 - 1,
            reset=reset,
            last_reward=(index % 3 - 1.0).masked_fill(reset, 0),
            last_action=(index % policy.spec.num_actions).masked_fill(reset, -1),
        ),
        policy.initial_state(columns),
    )
    return {"logits": output.logits.flatten().tolist(), "value": output.value.flatten().tolist()}


def _check_probe(
    stored: Mapping[str, list[float]], computed: Mapping[str, list[float]], folder: Path
) -> None:
    for name, answer in computed.items():
        then, now = np.array(stored[name]), np.array(answer)
        # kernels and CPUs may differ in rounding; a wrong network differs by far more
        limit = 1e-4 + 1e-3 * np.abs(then).max()
        difference = np.abs(now - then).max() if now.shape == then.shape else np.inf
        if not difference <= limit:
            raise CheckpointError(
                f"{folder}: the rebuilt network does not compute what the saved one did: its "
                f"{name} differ by {difference:.2g} where {limit:.2g} is rounding. This fwp_rl "
                f"({fwp_rl.__version__}) defines some part of it otherwise than the one that "
                "saved it, as manifest.json tells"
            )
