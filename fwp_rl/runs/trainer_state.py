"""What a checkpoint holds beside the policy: the state of the optimizer and of generators. What
else an agent tracks is in ``tracked.py``."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fwp_rl.registry import named, shown
from fwp_rl.runs.files import CheckpointError
from fwp_rl.runs.schema import OptimizerState
from fwp_rl.runs.tensors import Shapes
from fwp_rl.runs.tracked import OF_TRACKED

__all__ = [
    "OF_OPTIMIZER",
    "check_random",
    "check_same_optimizer",
    "check_trainer",
    "describe_optimizer",
    "random_states",
]

OF_OPTIMIZER = re.compile(r"optimizer\.(\d{1,9})\.(\w+)", re.ASCII)
"""The name of a tensor: the parameter's index, and what the optimizer calls it."""
_OF_RANDOM = re.compile(r"rng\.torch|rng\.cuda\.\d{1,3}|generator\..+", re.ASCII)
_MOST_KEYS = 16
"""Tensors that an optimizer holds of one parameter; Adam has three or four."""


def describe_optimizer(optimizer: torch.optim.Optimizer, policy: nn.Module) -> dict[str, Any]:
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


def check_same_optimizer(saved: Mapping[str, Any], own: Mapping[str, Any], where: str) -> None:
    """CheckpointError unless both descriptions are of one kind of optimizer, over the same
    parameters; its numbers may differ."""
    if saved["class"] != own["class"]:
        raise CheckpointError(
            f"{where}: holds the state of {named(saved['class'])}, this run uses {own['class']}"
        )
    theirs = [group["parameters"] for group in saved["groups"]]
    ours = [group["parameters"] for group in own["groups"]]
    if theirs != ours:
        raise CheckpointError(
            f"{where}: the optimizer's groups have {shown(theirs)} parameters, this run's have "
            f"{shown(ours)}"
        )
    for theirs, ours in zip(saved["parameters"], own["parameters"], strict=True):
        if theirs != ours:
            raise CheckpointError(
                f"{where}: the optimizer updates {named(theirs)} where this run's updates {ours}"
            )
    for group, wanted in zip(saved["groups"], own["groups"], strict=True):
        for key, value in wanted.items():
            if isinstance(value, bool) and key not in group:
                continue  # an option that torch has gained since
            if isinstance(value, (int, float, tuple)) and not _is_like(group.get(key), value):
                raise CheckpointError(
                    f"{where}: the optimizer's {key} is {shown(group.get(key))}, this run's is "
                    f"{shown(value)}"
                )


def _is_like(saved: Any, own: Any) -> bool:
    """Whether a hyper-parameter may stand for another: the number may differ, not the kind."""
    if isinstance(own, tuple):
        return isinstance(saved, list) and len(saved) == len(own) and all(map(_is_like, saved, own))
    if isinstance(own, bool):
        return isinstance(saved, bool)
    return isinstance(saved, (int, float)) and not isinstance(saved, bool)


def random_states(generators: Mapping[str, torch.Generator]) -> dict[str, Tensor]:
    states = {"rng.torch": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        for index, rng in enumerate(torch.cuda.get_rng_state_all()):
            states[f"rng.cuda.{index}"] = rng
    return states | {f"generator.{name}": g.get_state() for name, g in generators.items()}


def check_trainer(
    shapes: Shapes,
    optimizer: OptimizerState,
    policy: Shapes,
    path: Path,
    *,
    tracked: Collection[str] = (),
) -> None:
    """CheckpointError unless each tensor is of a parameter, and no larger, of a generator, or of
    what is tracked."""
    for name in optimizer.parameters:
        if name not in policy and name != "?":  # a parameter beside the policy's
            raise CheckpointError(
                f"{path.parent}: its optimizer updates {named(name)}, which it lacks"
            )
    keys: dict[int, int] = {}
    for name, shape in shapes.items():
        size = math.prod(shape)
        if _OF_RANDOM.fullmatch(name):
            fits = len(shape) == 1 and size <= 1 << 16
        elif match := OF_OPTIMIZER.fullmatch(name):
            index = int(match[1])
            keys[index] = keys.get(index, 0) + 1
            known = index < len(optimizer.parameters)
            of = policy.get(optimizer.parameters[index]) if known else ()
            # what the optimizer updates beside the policy's parameters may be of any size
            small = of is None or size <= max(math.prod(of), 1)
            fits = known and keys[index] <= _MOST_KEYS and small
        elif match := OF_TRACKED.fullmatch(name):
            fits = match[1] in tracked
        else:
            fits = False
        if not fits:
            raise CheckpointError(f"{path}: {named(name)} {list(shape)} is of no known parameter")


def check_random(trainer: Mapping[str, Tensor], path: Path) -> None:
    """CheckpointError unless the states of the CPU's generators are ones that torch takes."""
    if "rng.torch" not in trainer:
        raise CheckpointError(f"{path}: holds no state of torch's generator")
    generator = torch.Generator()
    usual = generator.get_state().shape
    for name, state in trainer.items():
        if not _OF_RANDOM.fullmatch(name) or (name != "rng.torch" and state.shape != usual):
            continue
        try:
            generator.set_state(state)
        except (RuntimeError, TypeError) as error:
            raise CheckpointError(f"{path}: {named(name)}: {str(error)[:120]}") from None
