"""Tensors on their way to a safetensors file and back into a network of the same form."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from safetensors import SafetensorError, safe_open
from safetensors.torch import load as parse_safetensors
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from fwp_rl.registry import named
from fwp_rl.runs.files import CheckpointError, SealedFolder

__all__ = [
    "Shapes",
    "at_most_parameters",
    "check_shapes",
    "check_tensors",
    "load_tensors",
    "module_tensors",
    "plain",
    "read_shapes",
    "read_tensors",
]

Shapes = Mapping[str, tuple[int, ...]]
"""Name → shape of each tensor in a file."""


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The module's state dict on the CPU, or a CheckpointError where a parameter is not finite."""
    for name, parameter in module.named_parameters():
        if not parameter.isfinite().all():
            raise CheckpointError(
                f"{name} holds NaN or infinity: not saved; older files are intact"
            )
    return {name: plain(tensor) for name, tensor in module.state_dict().items()}


def plain(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU."""
    # a copy even on the CPU: safetensors refuses tensors that share memory, as tied weights do
    return tensor.detach().to("cpu", copy=True).contiguous()


def check_tensors(tensors: Mapping[str, Tensor], module: nn.Module, *, source: str) -> None:
    """CheckpointError, naming both sides, unless the tensors have the names, shapes and dtypes of
    the module's."""
    own = module.state_dict()
    _compare(
        {name: _form(tensor) for name, tensor in tensors.items()},
        {name: _form(tensor) for name, tensor in own.items()},
        source,
    )


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into a module, or raise as ``check_tensors`` does."""
    check_tensors(tensors, module, source=source)
    module.load_state_dict(dict(tensors))


def check_shapes(shapes: Shapes, module: nn.Module, *, source: str) -> None:
    """As ``check_tensors``, of tensors that have not been read; the module may be on torch's
    ``meta`` device."""
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    _compare(
        {name: str(list(shape)) for name, shape in shapes.items()},
        {name: str(list(shape)) for name, shape in own.items()},
        source,
    )


def read_shapes(folder: SealedFolder, name: str) -> Shapes:
    """The shapes in a safetensors file of a sealed folder, without reading its tensors."""
    path = folder.file(name)
    try:
        with safe_open(path, framework="np") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, MemoryError) as error:
        raise CheckpointError(f"{path}: is no safetensors file: {_line(error)}") from None


def read_tensors(folder: SealedFolder, name: str) -> dict[str, Tensor]:
    """The verified tensors in a safetensors file of a sealed folder, or a CheckpointError."""
    data = folder.read(name)
    path = folder.path / name
    try:
        return parse_safetensors(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError, AssertionError) as error:
        # the library leaves a foreign dtype to a look-up, and shapes to torch
        raise CheckpointError(f"{path}: is no safetensors file: {_line(error)}") from None
    except MemoryError:
        raise CheckpointError(f"{path}: {len(data):,} bytes do not fit into memory") from None


@contextmanager
def at_most_parameters(count: int, *, source: str) -> Iterator[None]:
    """CheckpointError as soon as this thread builds modules with more parameters than ``count``:
    a config may ask for a million layers in a few bytes."""
    here, seen = threading.get_ident(), 0

    def counted(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal seen
        if threading.get_ident() != here:
            return
        seen += 1
        if seen > count:
            raise CheckpointError(
                f"{source}: describes a network of more than {count} parameters, which are what "
                "was saved"
            )

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


def _compare(saved: Mapping[str, str], needed: Mapping[str, str], source: str) -> None:
    problems = [f"{named(n)} was saved, the policy has none" for n in saved.keys() - needed.keys()]
    problems += [f"{named(n)} of the policy was not saved" for n in needed.keys() - saved.keys()]
    problems += [
        f"{named(n)} was saved as {saved[n]}, the policy's is {needed[n]}"
        for n in saved.keys() & needed.keys()
        if saved[n] != needed[n]
    ]
    if problems:
        problems.sort()
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{source}: the weights are of another network: {'; '.join(problems[:5])}{more}"
        )


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
