"""Checkpoints: everything a training run needs to go on, and nothing that could run code.

    checkpoints/step_000000123456/
        policy.safetensors     the policy's parameters and buffers
        trainer.safetensors    optimizer.<parameter index>.<key>, rng.*, generator.<name>, tracked.*
        state.json             numbers of the optimizer and of what is tracked, the caller's state,
                               the run and its config
        manifest.json          sizes, SHA-256, step, score and what it measures, milestone; a seal

A folder of this kind is whole or absent (``fwp_rl/runs/files.py``). The newest good one wins
on resume; ``keeping.py`` says which are kept.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from safetensors.torch import save as dump_safetensors
from torch import Tensor, nn

from fwp_rl.registry import shown
from fwp_rl.runs.files import JSON_BYTES, CheckpointError, dump_json, parse_json, write_folder
from fwp_rl.runs.keeping import (
    POLICY,
    STATE,
    TRAINER,
    best,
    checkpoint_path,
    checkpoint_steps,
    drop_old,
    open_checkpoint,
    remember,
)
from fwp_rl.runs.schema import CheckpointState, checked
from fwp_rl.runs.tensors import (
    check_tensors,
    load_tensors,
    module_tensors,
    plain,
    read_shapes,
    read_tensors,
)
from fwp_rl.runs.tracked import Stateful, check_states, describe_states, load_states
from fwp_rl.runs.trainer_state import (
    OF_OPTIMIZER,
    check_random,
    check_same_optimizer,
    check_trainer,
    describe_optimizer,
    random_states,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "best",
    "checkpoint_path",
    "checkpoint_steps",
    "load_checkpoint",
    "newest_good",
    "save_checkpoint",
]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint, in memory. Those of schema 1 know no measure, milestone and run."""

    path: Path
    step: int
    score: float | None
    measure: str | None
    """What the score is: training or evaluation."""
    milestone: bool
    """Kept for ever."""
    run_id: str | None
    config: Mapping[str, Any] | None
    """Of the run, as plain data."""
    state: dict[str, Any]
    """What the caller saved as its state."""
    policy: dict[str, Tensor]
    trainer: dict[str, Tensor]
    optimizer: dict[str, Any]
    tracked: dict[str, Any]
    """Name → the state of what was tracked, as ``tracked.py`` has it, without its tensors."""

    def check(
        self,
        policy: nn.Module,
        optimizer: torch.optim.Optimizer,
        generators: Mapping[str, torch.Generator],
        tracked: Mapping[str, Stateful] = MappingProxyType({}),
    ) -> None:
        """CheckpointError where the policy, the optimizer, the generators or what is tracked are
        not those that were saved."""
        where = str(self.path)
        check_same_optimizer(self.optimizer, describe_optimizer(optimizer, policy), where)
        missing = [name for name in generators if f"generator.{name}" not in self.trainer]
        if missing:
            raise CheckpointError(f"{where}: holds no random generator {', '.join(missing)}")
        check_states(tracked, self.tracked, self.trainer, where)
        check_tensors(self.policy, policy, source=where)

    def restore(
        self,
        policy: nn.Module,
        optimizer: torch.optim.Optimizer,
        generators: Mapping[str, torch.Generator],
        tracked: Mapping[str, Stateful] = MappingProxyType({}),
    ) -> None:
        """Put everything back, torch's global random state included. CheckpointError as ``check``,
        before anything is changed."""
        where = str(self.path)
        self.check(policy, optimizer, generators, tracked)
        before = optimizer.state_dict()
        try:
            optimizer.load_state_dict(self._optimizer_state())
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            optimizer.load_state_dict(before)
            raise CheckpointError(
                f"{where}: holds no state that {type(optimizer).__name__} can take over: "
                f"{shown(str(error))}"
            ) from None
        try:
            load_states(tracked, self.tracked, self.trainer, where)
        except CheckpointError:
            optimizer.load_state_dict(before)
            raise
        load_tensors(policy, self.policy, source=where)
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
            if match := OF_OPTIMIZER.fullmatch(name):
                # a copy, as the optimizer would work in this very tensor
                state.setdefault(int(match[1]), {})[match[2]] = tensor.clone()
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
    tracked: Mapping[str, Stateful] = MappingProxyType({}),
    run: Mapping[str, Any],
    score: float | None = None,
    measure: Literal["training", "evaluation"] | None = None,
    milestone: bool = False,
    keep: int = 2,
) -> Path:
    """Save one checkpoint, drop what is no longer needed, and return the checkpoint's folder.

    state      anything JSON can hold: counters, schedules, ``numpy_generator.bit_generator.state``
    tracked    name → anything else with a state to go on with
    run        ``{"id": ..., "config": ...}``: whose checkpoint it is, the config as plain data
    score      higher is better; None where there is none yet, and saved as None where it is not
               finite: a number that only ranks stops no save
    measure    what the score is; None where there is no score
    milestone  keep it for ever
    keep       how many of the newest stay; the best scored one always stays

    CheckpointError where a parameter or the optimizer's state is not finite, or one that is tracked
    holds a NaN: the older checkpoints are worth more.
    """
    if (score is None) != (measure is None):
        raise ValueError(f"measure: got {measure!r} with score {score!r}, expected both or none")
    if isinstance(step, bool) or not 0 <= step < 2**63:
        raise ValueError(f"step: got {step!r}, expected a number of steps")
    if score is not None and not math.isfinite(score):
        score = measure = None
    description = describe_optimizer(optimizer, policy)
    trainer = random_states(generators)
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            what = f"the optimizer's {key} of {description['parameters'][index]}"
            _check_finite(value, what)
            if isinstance(value, Tensor):
                trainer[f"optimizer.{index}.{key}"] = plain(value)
            else:
                description["values"].setdefault(str(index), {})[key] = value
    states, tensors = describe_states(tracked)
    trainer |= tensors
    document = {"optimizer": description, "state": state, "run": dict(run)}
    if states:
        document["tracked"] = states
    path = checkpoint_path(directory, step)
    files = {
        POLICY: dump_safetensors(module_tensors(policy)),
        TRAINER: dump_safetensors(trainer),
        STATE: _dump_state(document, path),
    }
    about = {"step": step, "score": score, "measure": measure, "milestone": milestone}
    write_folder(path, files, kind="checkpoint", about=about)
    remember(path)
    drop_old(directory, step, keep)
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint folder, or raise a CheckpointError."""
    folder, about = open_checkpoint(path)
    data = parse_json(folder.read(STATE, most=JSON_BYTES), path / STATE)
    state = checked(CheckpointState, data, path / STATE)
    shapes = read_shapes(folder, POLICY)
    own = read_shapes(folder, TRAINER)
    check_trainer(own, state.optimizer, shapes, path / TRAINER, tracked=state.tracked)
    policy, trainer = read_tensors(folder, POLICY), read_tensors(folder, TRAINER)
    check_random(trainer, path / TRAINER)
    return Checkpoint(
        path=path,
        step=about.step,
        score=about.score,
        measure=about.measure,
        milestone=about.milestone,
        run_id=None if state.run is None else state.run.id,
        config=None if state.run is None else state.run.config,
        state=data["state"],
        policy=policy,
        trainer=trainer,
        optimizer=data["optimizer"],
        tracked=state.tracked,
    )


def newest_good(
    directory: Path,
    *,
    warn: Callable[[str], object] = warnings.warn,
    check: Callable[[Checkpoint], object] | None = None,
) -> Checkpoint | None:
    """The newest checkpoint that verifies; None where there is none at all.

    warn   is told of each damaged one on the way
    check  may raise a CheckpointError of a checkpoint, which then counts as damaged

    CheckpointError where there are checkpoints and none is good: a run never starts afresh without
    a word.
    """
    problems = []
    for step in reversed(checkpoint_steps(directory)):
        try:
            checkpoint = load_checkpoint(checkpoint_path(directory, step))
            if check is not None:
                check(checkpoint)
            return checkpoint
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


def _check_finite(value: Any, what: str) -> None:
    number = isinstance(value, (Tensor, float))
    if number and not torch.as_tensor(value).isfinite().all():
        raise CheckpointError(f"{what} holds NaN or infinity: not saved; older files are intact")


def _dump_state(data: Mapping[str, Any], path: Path) -> bytes:
    """``state.json``, which can be read again."""
    text = dump_json(data)
    if len(text) > JSON_BYTES:
        raise ValueError(f"state: has {len(text):,} bytes as JSON, expected at most {JSON_BYTES:,}")
    checked(CheckpointState, parse_json(text, path / STATE), path / STATE)
    return text
