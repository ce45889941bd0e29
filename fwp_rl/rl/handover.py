"""What goes back and forth between actors and a learner: weights one way, columns the other."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fwp_rl.envs import Game
from fwp_rl.models.policy import Policy
from fwp_rl.rl.collector import empty_rollout
from fwp_rl.rl.replay import copy_columns
from fwp_rl.rl.transfer import copy_all, synchronize
from fwp_rl.types import Rollout

__all__ = ["Assembly", "Batch", "Unroll", "Weights"]


class Weights:
    """The weights that were published last. Safe to use from several threads."""

    def __init__(self, policy: Policy, device: torch.device) -> None:
        """device  of the actors: the way there is taken once a publication, not once an actor"""
        self.version = 0
        self._lock = threading.Lock()
        tensors = [x.detach().to(device, copy=True) for x in policy.state_dict().values()]
        if device.type == "cpu" and policy.device.type == "cuda":
            tensors = [x.pin_memory() for x in tensors]
        self._tensors = tensors

    def publish(self, policy: Policy) -> None:
        with self._lock:
            copy_all(list(policy.state_dict().values()), self._tensors)
            self.version += 1

    def fetch(self, policy: Policy, version: int) -> int:
        """Copy the weights into an actor's policy that has those of ``version``; returns the new
        version."""
        with self._lock:
            if version != self.version:
                copy_all(self._tensors, list(policy.state_dict().values()))
            return self.version


@dataclass(kw_only=True, slots=True)
class Batch:
    """What a learner learns from at a time.

    rollout  B = batch_size columns on the learner's device, in buffers that are reused: use it
             before the next batch
    version  [B]  int64  how many times weights had been published when each column was played
    games    that ended in the unrolls which this batch is the first to take columns from
    shares   activity → share of their time that actors spent on it, over these unrolls
    """

    rollout: Rollout
    version: Tensor
    games: list[Game]
    shares: dict[str, float]


@dataclass(kw_only=True, slots=True)
class Unroll:
    """What one actor has played, in one of its buffers."""

    rollout: Rollout
    release: Callable[[], None]
    """Gives the buffer back to the actor."""
    version: int
    games: list[Game]
    seconds: dict[str, float]
    wall: float
    taken: int = 0
    """Columns that are in batches already."""


class Assembly:
    """Puts columns of unrolls together into batches."""

    def __init__(self, policy: Policy, unroll_length: int, batch_size: int) -> None:
        self._policy = policy
        self._unroll_length = unroll_length
        self._batch_size = batch_size
        self._device = policy.device
        self._rollout: Rollout | None = None
        self._staging: Rollout | None = None  # for unrolls of another device
        self._open: Unroll | None = None  # has columns left

    def next_batch(self, take: Callable[[], Unroll]) -> Batch:
        """A batch of columns of unrolls; ``take`` waits for one more."""
        # Columns are copied, not stacked: batches and unrolls have sizes of their own, so an
        # unroll may fill the end of one batch and the beginning of the next. It stays open until
        # its last column is taken, and its actor plays on in another buffer meanwhile.
        version = torch.empty(self._batch_size, dtype=torch.int64)
        begun: list[Unroll] = []
        filled = 0
        while filled < self._batch_size:
            if self._open is None:
                self._open = take()
                begun.append(self._open)
                self._bring_here(self._open)
            unroll = self._open
            if self._rollout is None:
                self._rollout = self._empty(self._batch_size, like=unroll.rollout)
            columns = unroll.rollout.action.shape[1]
            count = min(columns - unroll.taken, self._batch_size - filled)
            taken = slice(unroll.taken, unroll.taken + count)
            into = slice(filled, filled + count)
            copy_columns(unroll.rollout, taken, self._rollout, into)
            version[into] = unroll.version
            filled += count
            unroll.taken += count
            if unroll.taken == columns:
                if unroll.rollout is not self._staging:
                    # On a GPU the copies are only queued. The actor writes on a stream of its own,
                    # which waits for no queue of ours: they have to end before it may.
                    synchronize(self._device)
                    unroll.release()
                self._open = None
        assert self._rollout is not None
        # Of the unrolls begun here alone: one that two batches share counts once.
        wall = sum(unroll.wall for unroll in begun)
        activities = {name for unroll in begun for name in unroll.seconds}
        return Batch(
            rollout=self._rollout,
            version=version,
            games=[game for unroll in begun for game in unroll.games],
            shares={
                name: sum(unroll.seconds.get(name, 0.0) for unroll in begun) / wall
                for name in sorted(activities)
            },
        )

    def _bring_here(self, unroll: Unroll) -> None:
        """Copy an unroll of another device to the learner's, whole: pinned memory is sent as it is
        where it is contiguous, and slices of columns are not. Its actor can play on at once."""
        played = unroll.rollout
        if played.action.device == self._device:
            return
        if self._staging is None:
            self._staging = self._empty(played.action.shape[1], like=played)
        copy_all(played.tensors(), self._staging.tensors())
        unroll.release()
        unroll.rollout = self._staging

    def _empty(self, columns: int, *, like: Rollout) -> Rollout:
        return empty_rollout(
            self._policy,
            columns,
            self._unroll_length,
            obs_dtype=like.observation.obs.dtype,
            device=self._device,
            extras={name: (x.shape[2:], x.dtype) for name, x in like.extras.items()},
        )
