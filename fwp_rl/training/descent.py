"""One door for a gradient step: all that changes a network's weights goes through here.

A minibatch is cut into shards along its environments, or its sequences. Each shard's loss is its
sum over the whole minibatch's divisor, so that the shards' gradients add up to that of the whole.
Threads take the shards from a queue (``workers.py``), each computes with one thread of torch's, and
the gradients are added in the order of the shards: the weights are the same, bit for bit, for any
number of threads. How a minibatch is cut changes the order of sums, and the last bits.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from fwp_rl.cores.dropout import draws_of_parts
from fwp_rl.cores.fast_weight_block import drawn_once
from fwp_rl.losses import StepLosses, join
from fwp_rl.machine import cpu_threads
from fwp_rl.models.policy import Policy
from fwp_rl.training.distributed import average_gradients
from fwp_rl.training.optim import clip_gradients
from fwp_rl.training.thread_choice import ThreadChoice, candidates
from fwp_rl.training.workers import Workers

__all__ = ["Descent", "DescentConfig", "numbers"]

IMAGE_SHARDS = 4
"""Shards of a minibatch of images on a CPU, where the config leaves it open."""

IMAGE_PIXELS = 32 * 32
"""What counts as an image there."""

SEQUENCE_SHARDS = 2
"""Shards of a minibatch of a sequence task there."""


class DescentConfig(Protocol):
    """What a training config says of gradient steps."""

    def learning_rate_at(self, step: int) -> float: ...
    @property
    def max_gradient_norm(self) -> float | None: ...
    @property
    def gradient_shards(self) -> int | None: ...
    @property
    def learner_threads(self) -> int | None: ...


class Descent:
    """Gradient steps of one network. ``close`` ends its threads."""

    def __init__(
        self,
        config: DescentConfig,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        cores: int,
        tell: Callable[[str], object] = lambda _: None,
    ) -> None:
        """
        cores  the most threads to compute shards with, where the config leaves it open
        tell   is told how many threads were chosen
        """
        self._config = config
        self._network = network
        self._optimizer = optimizer
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._on_cpu = self._parameters[0].device.type == "cpu"
        self._shards = config.gradient_shards or default_shards(network)
        self._cores = cores
        self._tell = tell
        self._choice: ThreadChoice | None = None
        self._workers = Workers("learner")
        self._sums = [torch.zeros_like(p) for p in self._parameters]

    def __call__(
        self,
        loss: Callable[[slice], StepLosses],
        *,
        columns: int,
        divisor: Tensor | int,
        step: int,
        also: Callable[[], Mapping[str, Tensor]] = dict,
        advise: Callable[[], str] = str,
    ) -> dict[str, float]:
        """Take one step down the gradient of a minibatch's loss; returns its metrics.

        loss     of some of the minibatch's environments, without reduction; called in any thread
        columns  environments, or sequences, in the minibatch
        divisor  of the sum of all losses: the steps that count in the whole minibatch, for a mean;
                 a minibatch with none has a loss of 0
        step     for the learning rate
        also     scalars to move to the CPU together with the metrics, asked for after the losses
        advise   what to say beside a norm that is not finite: where it may come from

        Whatever is raised, the weights are untouched. FloatingPointError where the norm of the
        gradient is not finite.
        """
        learning_rate = self._config.learning_rate_at(step)
        divisor = torch.as_tensor(divisor, device=self._parameters[0].device).clamp(min=1)
        with self._one_thread():
            losses = self._add_up(loss, columns, divisor)
            average_gradients(self._network)
            norm = clip_gradients(self._network, self._config.max_gradient_norm)
            metrics = numbers(
                {"optimizer/gradient_norm": norm, **losses.metrics(divisor), **also()}
            )
            if not math.isfinite(metrics["optimizer/gradient_norm"]):
                raise FloatingPointError(
                    f"the gradient norm is {metrics['optimizer/gradient_norm']}: the weights are "
                    "untouched, and the last checkpoint is good to resume from. "
                    f"{advise()}"
                )
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate
            self._optimizer.step()
        return metrics | {"optimizer/learning_rate": learning_rate}

    def close(self) -> None:
        self._workers.close()

    def _one_thread(self) -> AbstractContextManager[None]:
        """On a CPU: sums in other numbers of OpenMP's threads have other bits."""
        return cpu_threads(1) if self._on_cpu else nullcontext()

    def _add_up(
        self, loss: Callable[[slice], StepLosses], columns: int, divisor: Tensor
    ) -> StepLosses:
        """Compute the shards and set the parameters' gradients; returns the losses of all."""
        shards = cut(columns, self._shards)
        if self._choice is None:
            self._choice = ThreadChoice(self._candidates(len(shards)), self._tell)
        parts: list[StepLosses] = []
        known = [False] * len(self._parameters)
        dropping = draws_of_parts(self._network, len(shards))

        def compute(index: int) -> tuple[StepLosses, Sequence[Tensor | None]]:
            with dropping(index):
                part = loss(shards[index])
            gradients = torch.autograd.grad(
                part.reduce(divisor), self._parameters, allow_unused=True
            )
            return join([part]), gradients

        def merge(result: tuple[StepLosses, Sequence[Tensor | None]]) -> None:
            part, gradients = result
            parts.append(part)
            # Into tensors of our own: those of two parameters may share their memory.
            found = {n: x for n, x in enumerate(gradients) if x is not None}
            first = [n for n in found if not known[n]]
            later = [n for n in found if known[n]]
            if first:
                torch._foreach_copy_([self._sums[n] for n in first], [found[n] for n in first])
            if later:
                torch._foreach_add_([self._sums[n] for n in later], [found[n] for n in later])
            for n in first:
                known[n] = True

        start = time.perf_counter()
        with drawn_once(self._network):
            spent = self._workers.run(
                compute, len(shards), threads=self._choice.threads, merge=merge
            )
        self._choice.enter(time.perf_counter() - start, spent.share)
        for parameter, total, is_known in zip(self._parameters, self._sums, known, strict=True):
            parameter.grad = total if is_known else None
        return join(parts)

    def _candidates(self, shards: int) -> list[int]:
        if not self._on_cpu:
            return [1]
        asked = self._config.learner_threads
        return candidates(shards, self._cores) if asked is None else [min(asked, shards)]


def default_shards(network: nn.Module) -> int:
    """1 on a GPU, and for policies of vectors and small images: calling a small network costs more
    than what it computes, and each shard calls it anew. Sequences are long."""
    if next(network.parameters()).device.type != "cpu":
        return 1
    if not isinstance(network, Policy):
        return SEQUENCE_SHARDS
    if not network.spec.is_image:
        return 1
    _, height, width = network.spec.observation_shape
    return IMAGE_SHARDS if height * width >= IMAGE_PIXELS else 1


def cut(columns: int, shards: int) -> list[slice]:
    """So many slices of the columns, no more than there are columns, of sizes as equal as they can
    be."""
    shards = min(shards, columns)
    edges = [columns * n // shards for n in range(shards + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def numbers(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """The scalars as Python has them, in one move from their device."""
    if not scalars:
        return {}
    # whole numbers, of steps, are exact in float32 as far as 16 million
    double = any(x.dtype == torch.float64 for x in scalars.values())
    dtype = torch.float64 if double else torch.float32
    values = torch.stack([x.detach().to(dtype) for x in scalars.values()]).tolist()
    return dict(zip(scalars, values, strict=True))
