"""How what is played gets to the device where it is used, in few copies that nobody waits for.

On a CPU nothing is copied that need not be. To a GPU a copy costs the same few microseconds for a
byte and for a thousand, and one from memory that is not pinned, or not contiguous there, goes
through a temporary that the sender waits for.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from fwp_rl.envs import EnvStep
from fwp_rl.types import Rollout

__all__ = ["Answers", "Parcel", "copy_all", "synchronize"]


class Answers:
    """What an environment answers, on its way into a rollout: rows of NumPy, one a step, that are
    the rollout's own memory on a CPU and go to a GPU together."""

    def __init__(self, rollout: Rollout) -> None:
        self._places = [rollout.reward, rollout.terminated, rollout.truncated, rollout.mask]
        self._tensors = [
            x if x.is_cpu else torch.empty_like(x, device="cpu", pin_memory=x.is_cuda)
            for x in self._places
        ]
        self._rows = [x.numpy() for x in self._tensors]

    def enter(self, t: int, answer: EnvStep) -> None:
        arrays = (answer.reward, answer.terminated, answer.truncated, answer.mask)
        for rows, array in zip(self._rows, arrays, strict=True):
            rows[t] = array

    def deliver(self) -> None:
        """After the last step."""
        for place, tensor in zip(self._places, self._tensors, strict=True):
            if place is not tensor:
                place.copy_(tensor, non_blocking=True)


class Parcel:
    """Sends tensors of the same shapes to a device again and again, all of them in one copy, which
    nobody waits for where it comes from pinned memory.

    Between two calls the sender has to have waited for the device, as an actor does that reads its
    action: the next call writes to the memory that the last one sends from.
    """

    def __init__(self, tensors: Sequence[Tensor], device: torch.device) -> None:
        """tensors  on the CPU, in the shapes and dtypes to come"""
        sizes = [-(-x.nbytes // 16) * 16 for x in tensors]  # a dtype's view begins at its multiple
        ends = list(accumulate(sizes))
        self._device = device
        self._places = [
            (end - size, end - size + x.nbytes, x.dtype, x.shape)
            for x, size, end in zip(tensors, sizes, ends, strict=True)
        ]
        self._memory = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._written = self._views(self._memory)

    def send(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """These tensors on the device; each call makes new ones there."""
        for place, tensor in zip(self._written, tensors, strict=True):
            place.copy_(tensor)
        return self._views(self._memory.to(self._device, non_blocking=True, copy=True))

    def _views(self, memory: Tensor) -> list[Tensor]:
        return [
            memory[start:stop].view(dtype).view(shape) for start, stop, dtype, shape in self._places
        ]


def copy_all(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    """Copy tensors over others, and wait for the end: each side works on a stream of its own."""
    devices = {x.device for x in (*sources, *targets)}
    with torch.no_grad():
        if len(devices) == 1:
            torch._foreach_copy_(list(targets), list(sources))
        else:
            for source, target in zip(sources, targets, strict=True):
                target.copy_(source, non_blocking=True)
    for device in devices:
        synchronize(device)


def synchronize(device: torch.device) -> None:
    """Wait for this thread's work on a device."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
