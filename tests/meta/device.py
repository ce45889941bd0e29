"""A device that stands in for a GPU: torch's ``meta``, whose tensors have shapes and no numbers.

Everything that an agent does on a GPU is done here, without results: each call is seen once, when
it has become one of torch's own or one of this project's fused ops, and one that mixes devices
raises. What has to have numbers to go on waits for the GPU there; here it is counted, and ones
(zeros, where they are whole numbers) are what comes back.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fwp_rl.kernels import dispatch

META = torch.device("meta")

aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
DRAWS = {aten.exponential_.default, aten.uniform_.default, aten.random_.to}
NO_LAUNCH = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten._unsafe_view.default,
    aten.detach.default,
    aten.lift_fresh.default,
}
"""They make or name memory, beside the views."""


@dataclass
class Calls:
    """What was asked of the device, by the names of the ops."""

    launches: Counter[str] = field(default_factory=Counter)
    """Calls that compute something there: all but views and bare allocations."""
    copies: Counter[str] = field(default_factory=Counter)
    """From the host to the device."""
    waits: Counter[str] = field(default_factory=Counter)
    """Of the host for a number of the device's."""

    def __sub__(self, other: "Calls") -> "Calls":
        left = Calls()
        for name, counts in vars(self).items():
            counts = Counter(counts)
            counts.subtract(vars(other)[name])
            setattr(left, name, Counter({op: n for op, n in sorted(counts.items()) if n}))
        return left

    def __mul__(self, times: int) -> "Calls":
        return Calls(
            **{
                name: Counter({op: n * times for op, n in counts.items()})
                for name, counts in vars(self).items()
            }
        )

    def copy(self) -> "Calls":
        return self - Calls()


class MixedDevicesError(AssertionError):
    """An op was given tensors of two devices."""


class Device(TorchDispatchMode):
    """Counts what is asked of the meta device, and checks it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Calls()

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = _tensors((*args, *kwargs.values()))
        if op in COPIES:
            return self._copy(op, tensors, args, kwargs)
        # a number on the CPU goes to a GPU as an argument of the launch
        if len({x.device for x in tensors if x.dim()}) > 1:
            shapes = ", ".join(f"{x.device} {tuple(x.shape)}" for x in tensors)
            raise MixedDevicesError(f"{op} mixes devices: {shapes}")
        if any(x.is_meta for x in tensors) and _needs_numbers(op, tensors):
            self.calls.waits[str(op)] += 1
            return _made_up(op, tensors[0])
        if op in DRAWS and args[0].is_meta:
            kwargs = {}  # its generator is of the CPU, see ``generator``
        if op.is_view or not tensors or not all(x.is_meta for x in tensors):
            result = op(*args, **kwargs)
        else:
            result = _remembered(op, args, kwargs)
        if not op.is_view and op not in NO_LAUNCH:
            there = any(x.is_meta for x in (*tensors, *_tensors((result,))))
            self.calls.launches[str(op)] += there
        return result

    def _copy(self, op: Any, tensors: list[Tensor], args: Any, kwargs: dict[str, Any]) -> Any:
        in_place = op is aten.copy_.default
        source = tensors[-1].device if in_place else args[0].device
        target = args[0].device if in_place else torch.device(kwargs.get("device") or source)
        if source == META != target:
            self.calls.waits[f"{op} to the host"] += 1
            if in_place:
                return args[0]
            return _numbers(args[0].shape, kwargs.get("dtype") or args[0].dtype)
        if source != META == target:
            self.calls.copies[str(op)] += 1
        elif source == META:
            self.calls.launches[str(op)] += 1
        return op(*args, **kwargs)


_KNOWN: dict[Any, Any] = {}


def _remembered(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an op gives for meta tensors, by what it gave for others of their shapes: to work a
    shape out takes many times as long as a tensor of it."""
    key = (op, _key(args), _key(tuple(kwargs.items())))
    if key not in _KNOWN:
        result = op(*args, **kwargs)
        _KNOWN[key] = _recipe(result, args)
        return result
    return _KNOWN[key](args)


def _key(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple(map(_key, value))
    return type(value), value  # 1 and 1.0 are equal, and make other tensors


def _recipe(result: Any, args: tuple[Any, ...]) -> Any:
    """A function of the arguments that makes such a result anew."""
    if isinstance(result, (list, tuple)):
        parts = [_recipe(x, args) for x in result]
        return lambda args: type(result)([part(args) for part in parts])
    if not isinstance(result, Tensor):
        return lambda args: result
    for n, x in enumerate(args):
        if x is result:  # changed in place
            return lambda args: args[n]
    shape, stride, dtype = result.shape, result.stride(), result.dtype
    device = result.device
    return lambda args: torch.empty_strided(shape, stride, dtype=dtype, device=device)


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """Those among the values, and in the lists among them."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(value)
    return found


def _needs_numbers(op: Any, tensors: list[Tensor]) -> bool:
    if op in (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default):
        return True
    by_mask = op in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
    return by_mask and any(x.dtype == torch.bool for x in tensors[1:])


def _made_up(op: Any, x: Tensor) -> Any:
    if op is aten._local_scalar_dense.default:
        return torch.ones((), dtype=x.dtype).item()
    if op is aten.nonzero.default:
        return torch.empty((1, x.dim()), dtype=torch.int64, device=META)
    if op is aten.masked_select.default:
        return x.new_empty((1,))
    raise NotImplementedError(f"{op} with a mask waits for the GPU, expected torch.where")


def _numbers(shape: Any, dtype: torch.dtype) -> Tensor:
    whole = not (dtype.is_floating_point or dtype == torch.bool)
    return torch.full(tuple(shape), 0 if whole else 1, dtype=dtype)


class _MetaGenerator(torch.Generator):
    """There is none for meta; of one of the CPU, that says so."""

    device = META  # type: ignore[assignment]


def generator() -> torch.Generator:
    return _MetaGenerator()


@contextmanager
def as_a_gpu() -> Iterator[Device]:
    """Within, torch and this project take meta for a GPU, and its calls are counted."""
    real = torch.autocast

    def autocast(device: str, *args: Any, **kwargs: Any) -> AbstractContextManager[object]:
        return nullcontext() if device == "meta" else real(device, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, Device() as device:
        patch.setattr(torch, "autocast", autocast)
        for module in ("torch.optim.optimizer", "torch.utils._foreach_utils"):
            for kind in ("fused", "foreach"):  # one call for all parameters
                name = f"_get_{kind}_kernels_supported_devices"
                patch.setattr(import_module(module), name, lambda: ["meta"])
        patch.setitem(dispatch._FUSED, "meta", "cuda")
        patch.setattr(dispatch, "_status", lambda backend: dispatch.BackendStatus(True))
        yield device


class _Casts(TorchDispatchMode):
    def __init__(self, counts: dict[str, int]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if op is aten._to_copy.default and {args[0].dtype, kwargs.get("dtype")} == {
            torch.float32,
            torch.bfloat16,
        }:
            self.counts["count"] += 1
        return op(*args, **kwargs)


@contextmanager
def count_casts() -> Iterator[dict[str, int]]:
    """Counts casts between float32 and bfloat16, on any device: autocast knows no meta."""
    counts = {"count": 0}
    with _Casts(counts):
        yield counts
