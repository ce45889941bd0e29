"""Checkpoints: everything a training run needs to go on, and nothing that could run code.

    checkpoints/step_000000123456/
        policy.safetensors     the policy's parameters and buffers
        trainer.safetensors    optimizer.<parameter index>.<key>, rng.*, generator.<name>
        state.json             the optimizer's numbers, and the caller's state
        manifest.json          sizes, SHA-256, step, score

A folder of this kind is whole or absent (``fwp_rl/runs/files.py``). The newest good one wins
on resume; the last two and the one with the best score are kept.
"""

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as dump_safetensors
from torch import Tensor, nn

from fwp_rl.runs.files import (
    CheckpointError,
    SealedFolder,
    dump_json,
    parse_json,
    read_folder,
    remove,
    write_folder,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "best",
    "checkpoint_path",
    "checkpoint_steps",
    "load_checkpoint",
    "load_tensors",
    "module_tensors",
    "newest_good",
    "read_tensors",
    "save_checkpoint",
]

POLICY, TRAINER, STATE = "policy.safetensors", "trainer.safetensors", "state.json"

_FOLDER = re.compile(r"step_(\d{12})(\.old)?")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint, in memory."""

    path: Path
    step: int
    score: float | None
    state: dict[str, Any]
    """What the caller saved as its state."""
    policy: dict[str, Tensor]
    trainer: dict[str, Tensor]
    optimizer: dict[str, Any]

    def restore(
        self,
        policy: nn.Module,
        optimizer: torch.optim.Optimizer,
        generators: Mapping[str, torch.Generator],
    ) -> None:
        """Put everything back, torch's global random state included.

        CheckpointError, before anything is changed, where the policy, the optimizer or the
        generators are not those that were saved.
        """
        where = str(self.path)
        _check_same_optimizer(self.optimizer, _describe_optimizer(optimizer, policy), where)
        missing = [name for name in generators if f"generator.{name}" not in self.trainer]
        if missing:
            raise CheckpointError(f"{where}: holds no random generator {', '.join(missing)}")
        load_tensors(policy, self.policy, source=where)
        optimizer.load_state_dict(self._optimizer_state())
        torch.set_rng_state(self.trainer["rng.torch"])
        for index in range(torch.cuda.device_count()):
            if f"rng.cuda.{index}" in self.trainer:
                torch.cuda.set_rng_state(self.trainer[f"rng.cuda.{index}"], index)
        for name, generator in generators.items():
            state = self.trainer[f"generator.{name}"]
            if state.shape == generator.get_state().shape:
                generator.set_state(state)
            else:
                warnings.warn(
                    f"{where}: generator {name!r} was saved on another kind of device and starts "
                    "anew: the run goes on, but not with the same random numbers",
                    stacklevel=2,
                )

    def _optimizer_state(self) -> dict[str, Any]:
        state: dict[int, dict[str, Any]] = {
            int(index): dict(values) for index, values in self.optimizer["values"].items()
        }
        for name, tensor in self.trainer.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                # a copy, as the optimizer would work in this very tensor
                state.setdefault(int(index), {})[key] = tensor.clone()
        groups, start = [], 0
        for group in self.optimizer["groups"]:
            count = int(group["parameters"])
            hyper = {
                key: tuple(value) if isinstance(value, list) else value  # JSON has no tuples
                for key, value in group.items()
                if key != "parameters"
            }
            groups.append({**hyper, "params": list(range(start, start + count))})
            start += count
        return {"state": state, "param_groups": groups}


def save_checkpoint(
    directory: Path,
    *,
    step: int,
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    generators: Mapping[str, torch.Generator],
    score: float | None,
    keep: int = 2,
) -> Path:
    """Save one checkpoint, drop what is no longer needed, and return the checkpoint's folder.

    state  anything JSON can hold: counters, schedules, ``numpy_generator.bit_generator.state``
    score  higher is better; None where there is none yet
    keep   how many of the newest stay; the best scored one always stays

    CheckpointError where a parameter is not finite: the older checkpoints are worth more.
    """
    if score is not None and not math.isfinite(score):
        raise ValueError(f"score: got {score}, expected a finite number, or None if there is none")
    trainer = {"rng.torch": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        for index, rng in enumerate(torch.cuda.get_rng_state_all()):
            trainer[f"rng.cuda.{index}"] = rng
    trainer |= {f"generator.{name}": g.get_state() for name, g in generators.items()}
    description = _describe_optimizer(optimizer, policy)
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                trainer[f"optimizer.{index}.{key}"] = _plain(value)
            else:
                description["values"].setdefault(str(index), {})[key] = value
    files = {
        POLICY: dump_safetensors(module_tensors(policy)),
        TRAINER: dump_safetensors(trainer),
        STATE: dump_json({"optimizer": description, "state": state}),
    }
    path = _folder(directory, step)
    write_folder(path, files, kind="checkpoint", about={"step": step, "score": score})
    _drop_old(directory, step, keep)
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint folder, or raise a CheckpointError."""
    sealed = _read(path)
    data = parse_json(sealed.files[STATE], path / STATE)
    if not isinstance(data.get("optimizer"), dict) or not isinstance(data.get("state"), dict):
        raise CheckpointError(f"{path / STATE}: lacks 'optimizer' or 'state'")
    return Checkpoint(
        path=path,
        step=sealed.about["step"],
        score=sealed.about.get("score"),
        state=data["state"],
        policy=read_tensors(sealed.files[POLICY], path / POLICY),
        trainer=read_tensors(sealed.files[TRAINER], path / TRAINER),
        optimizer=data["optimizer"],
    )


def newest_good(
    directory: Path, *, warn: Callable[[str], object] = warnings.warn
) -> Checkpoint | None:
    """The newest checkpoint that verifies; None where there is none at all.

    Each damaged one on the way is told to ``warn``. CheckpointError where there are checkpoints
    and none is good: a run never starts afresh without a word.
    """
    problems = []
    for step in reversed(_steps(directory)):
        try:
            return load_checkpoint(_folder(directory, step))
        except (CheckpointError, OSError) as error:
            problems.append(str(error))
            warn(f"skipping a damaged checkpoint, trying an older one: {error}")
    if problems:
        raise CheckpointError(
            f"{directory}: none of the {len(problems)} checkpoints is usable:\n  "
            + "\n  ".join(problems)
            + "\nStart a new run in another directory, or restore one of these folders."
        )
    return None


def best(directory: Path) -> Path:
    """The folder of the best scored checkpoint that verifies, or a CheckpointError."""
    step = _best(_verified(directory))
    if step is None:
        raise CheckpointError(
            f"{directory}: has no good checkpoint with a score; a run's first is the first that it "
            "saves after enough games have ended"
        )
    return _folder(directory, step)


def checkpoint_steps(directory: Path) -> list[int]:
    """The steps of the kept checkpoints, in order; whether they verify is not looked at."""
    return _steps(directory)


def checkpoint_path(directory: Path, step: int) -> Path:
    """The folder of the checkpoint of that step."""
    return _folder(directory, step)


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The module's state dict on the CPU, or a CheckpointError where a parameter is not finite."""
    for name, parameter in module.named_parameters():
        if not parameter.isfinite().all():
            raise CheckpointError(
                f"{name} holds NaN or infinity: not saved; older files are intact"
            )
    return {name: _plain(tensor) for name, tensor in module.state_dict().items()}


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into a module whose state dict has the same names, shapes and dtypes, or raise
    a CheckpointError that names both sides."""
    own = module.state_dict()
    problems = [f"{name} was saved, the policy has none" for name in tensors.keys() - own.keys()]
    problems += [f"{name} of the policy was not saved" for name in own.keys() - tensors.keys()]
    for name in own.keys() & tensors.keys():
        saved, needed = _form(tensors[name]), _form(own[name])
        if saved != needed:
            problems.append(f"{name} was saved as {saved}, the policy's is {needed}")
    if problems:
        problems.sort()
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{source}: the weights are of another network: {'; '.join(problems[:5])}{more}"
        )
    module.load_state_dict(dict(tensors))


def read_tensors(data: bytes, source: Path) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file, or a CheckpointError."""
    try:
        return parse_safetensors(data)
    except SafetensorError as error:
        raise CheckpointError(f"{source}: is no safetensors file: {error}") from None


def _plain(tensor: Tensor) -> Tensor:
    # a copy even on the CPU: safetensors refuses tensors that share memory, as tied weights do
    return tensor.detach().to("cpu", copy=True).contiguous()


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _describe_optimizer(optimizer: torch.optim.Optimizer, policy: nn.Module) -> dict[str, Any]:
    """What JSON can hold of an optimizer; the parameters' names tell whether another one fits."""
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    groups: Sequence[dict[str, Any]] = optimizer.param_groups
    return {
        "class": type(optimizer).__name__,
        "parameters": [names.get(id(p), "?") for group in groups for p in group["params"]],
        "groups": [
            {key: value for key, value in group.items() if key != "params"}
            | {"parameters": len(group["params"])}
            for group in groups
        ],
        "values": {},
    }


def _check_same_optimizer(saved: Mapping[str, Any], own: Mapping[str, Any], where: str) -> None:
    if saved.get("class") != own["class"]:
        raise CheckpointError(
            f"{where}: holds the state of {saved.get('class')}, this run uses {own['class']}"
        )
    theirs = [group["parameters"] for group in saved["groups"]]
    ours = [group["parameters"] for group in own["groups"]]
    if theirs != ours:
        raise CheckpointError(
            f"{where}: the optimizer's groups have {theirs} parameters, this run's have {ours}"
        )
    for theirs, ours in zip(saved["parameters"], own["parameters"], strict=True):
        if theirs != ours:
            raise CheckpointError(
                f"{where}: the optimizer updates {theirs} where this run's updates {ours}"
            )


def _read(path: Path) -> SealedFolder:
    sealed = read_folder(path, kind="checkpoint", expected=(POLICY, TRAINER, STATE))
    if not isinstance(sealed.about.get("step"), int):
        raise CheckpointError(f"{path}: the manifest does not say which step this is")
    return sealed


def _folder(directory: Path, step: int) -> Path:
    return directory / f"step_{step:012d}"


def _steps(directory: Path) -> list[int]:
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return sorted({int(match[1]) for match in map(_FOLDER.fullmatch, names) if match})


def _verified(directory: Path) -> dict[int, float | None]:
    """Step → score of the checkpoints that verify."""
    scores: dict[int, float | None] = {}
    for step in _steps(directory):
        with suppress(CheckpointError, OSError):
            scores[step] = _read(_folder(directory, step)).about.get("score")
    return scores


def _best(scores: Mapping[int, float | None]) -> int | None:
    """The step with the highest score, the first of equals."""
    scored = [(score, -step) for step, score in scores.items() if score is not None]
    return -max(scored)[1] if scored else None


def _drop_old(directory: Path, step: int, keep: int) -> None:
    """Delete what came before ``step``, but for the newest ``keep`` and the best that verify.

    Later steps than this one are left alone: they could not be read when the run resumed from an
    older one, and whoever looks into that wants them.
    """
    # Only checkpoints that verify count as kept: were damaged ones counted, two of them would push
    # the last good one out. So pruning reads them all; there are three or four. It follows the
    # new one's writing: a crash in between leaves one too many, never one too few.
    scores = _verified(directory)
    kept = {_best(scores), *[good for good in scores if good <= step][-keep:]}
    for old in _steps(directory):
        if old < step and old not in kept:
            remove(_folder(directory, old))
