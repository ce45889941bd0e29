"""States of what an agent tracks beside its network and optimizer, as a checkpoint holds them.

A state is what ``state_dict`` gives: dicts, lists and tuples around tensors and plain values. Its
tensors go to trainer.safetensors, as ``tracked.NAME.0``, ``tracked.NAME.1``, ... Everything goes
to state.json, in which a container says its kind, since JSON has neither tuples nor numbers as
keys:

    {"dict": [key, value, key, value, ...]}   {"list": [...]}   {"tuple": [...]}
    {"tensor": 0}   {"number": "inf"}
"""

import copy
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from torch import Tensor

from fwp_rl.registry import named, shown
from fwp_rl.runs.files import CheckpointError
from fwp_rl.runs.tensors import plain

__all__ = ["OF_TRACKED", "Stateful", "check_name", "check_states", "describe_states", "load_states"]

OF_TRACKED = re.compile(r"tracked\.(\w{1,100})\.\d{1,9}", re.ASCII)
"""The name of a tensor: of what, and its number."""

_NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Stateful(Protocol):
    """What can be tracked: an optimizer, a schedule, a module, or anything of one's own."""

    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state_dict: Any, /) -> object: ...


def check_name(name: str, taken: Collection[str]) -> None:
    """ValueError unless this names something in a checkpoint that is not there yet."""
    if not (name.isascii() and name.isidentifier()) or len(name) > 100:
        raise ValueError(f"track: got the name {shown(name)}, expected one like 'critic_optimizer'")
    if name in taken:
        raise ValueError(f"track: {name!r} is tracked already; each needs a name of its own")


def describe_states(
    tracked: Mapping[str, Stateful],
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The states as JSON can hold them, and their tensors by name.

    CheckpointError where a state is of something that no file can hold, or holds a NaN.
    """
    trees: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, item in tracked.items():
        own: list[Tensor] = []
        trees[name] = _encoded(item.state_dict(), own, name)
        tensors |= {f"tracked.{name}.{n}": plain(tensor) for n, tensor in enumerate(own)}
    return trees, tensors


def check_states(
    tracked: Collection[str], trees: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str
) -> None:
    """CheckpointError unless what was saved are the states of just these."""
    missing = [name for name in tracked if name not in trees]
    unknown = [name for name in trees if name not in tracked]
    if missing:
        raise CheckpointError(f"{where}: holds no state of {', '.join(missing)}")
    if unknown:
        raise CheckpointError(
            f"{where}: holds the state of {named(unknown[0])}, which this run does not track"
        )
    for name in tracked:
        _decoded(trees[name], name, tensors, where)


def load_states(
    tracked: Mapping[str, Stateful],
    trees: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    where: str,
) -> None:
    """Put the states back. CheckpointError where one of them is not taken; all are then as they
    were."""
    before = {name: copy.deepcopy(item.state_dict()) for name, item in tracked.items()}
    for name, item in tracked.items():
        try:
            item.load_state_dict(_decoded(trees[name], name, tensors, where))
        except Exception as error:  # anybody's own
            for one, state in before.items():
                tracked[one].load_state_dict(state)
            raise CheckpointError(
                f"{where}: holds no state that {name} can take over: {shown(str(error))}"
            ) from None


def _encoded(value: Any, tensors: list[Tensor], where: str) -> Any:
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.isnan().any():
            raise CheckpointError(f"{where} holds NaN: not saved; older files are intact")
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if isinstance(value, Mapping):
        if bad := [key for key in value if type(key) not in (str, int)]:
            raise CheckpointError(
                f"{where}: its state has the key {shown(bad[0])}, expected text or a whole number"
            )
        flat = [x for key in value for x in (key, _encoded(value[key], tensors, f"{where}.{key}"))]
        return {"dict": flat}
    if isinstance(value, (list, tuple)):
        items = [_encoded(x, tensors, f"{where}.{n}") for n, x in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(float(value))}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CheckpointError(
        f"{where}: its state holds a {type(value).__name__}, expected tensors, numbers, text, and "
        "dicts, lists and tuples of these"
    )


def _decoded(tree: Any, name: str, tensors: Mapping[str, Tensor], where: str) -> Any:
    if not isinstance(tree, dict):
        if tree is None or isinstance(tree, (bool, int, float, str)):
            return tree
        raise _damaged(name, where)
    if len(tree) != 1:
        raise _damaged(name, where)
    ((kind, value),) = tree.items()
    if kind == "tensor":
        tensor = tensors.get(f"tracked.{name}.{value}")
        if type(value) is int and tensor is not None:
            return tensor.clone()  # whoever loads it may work in this very tensor
    elif kind == "number":
        if isinstance(value, str) and value in _NUMBERS:
            return _NUMBERS[value]
    elif isinstance(value, list):
        if kind == "dict":
            keys, values = value[::2], value[1::2]
            if len(keys) == len(values) and all(type(key) in (str, int) for key in keys):
                items = (_decoded(x, name, tensors, where) for x in values)
                return dict(zip(keys, items, strict=True))
        elif kind in ("list", "tuple"):
            items = (_decoded(x, name, tensors, where) for x in value)
            return list(items) if kind == "list" else tuple(items)
    raise _damaged(name, where)


def _damaged(name: str, where: str) -> CheckpointError:
    return CheckpointError(f"{where}: the state of {named(name)} is not one that was saved")
