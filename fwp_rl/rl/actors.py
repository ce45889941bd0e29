"""Actors that play with a copy of the policy while a learner learns, and the batches they make.

Each actor owns a pool of environment columns, which it steps in lockstep, a copy of the policy,
and buffers for a few unrolls. Between two unrolls, and never inside one, it takes over the newest
weights. A finished unroll goes to the learner, which copies columns out of it, whichever are
finished, into its batch; an emptied buffer goes back. The buffers bound every queue, and with
them how far behind the learner an actor can fall.

``threads`` plays in one thread per actor. ``inline`` plays in the learner's own thread, an unroll
when one is needed: the same batches from run to run, bit for bit.
"""

import copy
import queue
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal, Protocol

import torch

from fwp_rl.config import BOOKKEEPING, ConfigError, Range, check_ranges
from fwp_rl.envs import EnvConfig, VectorEnv
from fwp_rl.machine import check_device_name, choose_device, usable_cores
from fwp_rl.models.policy import Policy
from fwp_rl.rl.collector import NO_EXTRAS, Actor, Collector, Extras, Stopwatch
from fwp_rl.rl.handover import Assembly, Batch, Unroll, Weights
from fwp_rl.rl.pulse import Cancelled, Pulse
from fwp_rl.rl.transfer import synchronize
from fwp_rl.types import Rollout

__all__ = ["Actors", "ActorsConfig", "Batch"]

STOP_SECONDS = 60.0
"""How long closing waits, at most, for an actor to come to the end of its step: in its first unroll
it may be compiling."""

STEP_SECONDS = 5.0
"""The least that closing waits for an actor whose unrolls are known to be short."""

POLL_SECONDS = 0.5
"""How often who waits for an unroll looks whether to go on."""


@dataclass(frozen=True, kw_only=True)
class ActorsConfig:
    """Who plays."""

    kind: Literal["threads", "inline"] = "threads"
    """One thread per actor, or all in the learner's thread, in turn and reproducibly."""
    count: Annotated[int, Range(1, 256)] = 2
    """Actors; each has num_envs / count environments. While one waits for its emulators, another
    computes."""
    buffers: Annotated[int, Range(1, 64)] = 2
    """Unrolls that an actor may have begun or finished and not yet given to the learner."""
    device: Annotated[str, BOOKKEEPING] = "auto"
    """Where actors compute: cpu, cuda or cuda:N; auto takes the learner's device."""
    cpu_threads: Annotated[int, Range(1, 256), BOOKKEEPING] = 1
    """Cores that an actor in a thread of its own computes with, where it does so on the CPU."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_device_name(self.device)

    def resolve_device(self, learner: torch.device) -> torch.device:
        """The device to act on beside a learner's."""
        if self.device == "auto":
            return learner
        return choose_device(self.device, field="actors.device")

    def cores_left(self, learner: torch.device) -> int:
        """The CPU cores that a learner has for itself, one at least."""
        cores = torch.get_num_threads()
        if self.kind == "threads" and self.resolve_device(learner).type == "cpu":
            cores -= self.count * self.cpu_threads
        return max(1, cores)


class Actors:
    """All actors of a run. ``start`` once, ``next_batch`` and ``publish`` by turns, ``close``."""

    def __init__(
        self,
        config: ActorsConfig,
        env: EnvConfig,
        policy: Policy,
        *,
        seeds: Sequence[int],
        generators: Sequence[torch.Generator],
        unroll_length: int,
        batch_size: int,
        extras: Extras = NO_EXTRAS,
        poll: Callable[[], object] = lambda: None,
    ) -> None:
        """Builds the environments and starts nothing.

        policy      the learner's; its device is where batches go
        seeds       one per environment column; their number is a multiple of ``config.count``
        generators  one per actor, on the actors' device: they draw its actions
        extras      what batches hold beside the rest, by name; read in each actor's thread
        poll        called again and again while ``next_batch`` waits, and before each step that is
                    played in the learner's thread; what it raises leaves ``next_batch``
        """
        if len(seeds) % config.count:
            raise ConfigError(
                f"actors.count: got {config.count}, expected a divisor of num_envs = {len(seeds)}: "
                "each actor has as many environments as the others"
            )
        self._device = policy.device
        self._unroll_length = unroll_length
        self._weights = Weights(policy, generators[0].device)
        self._assembly = Assembly(policy, unroll_length, batch_size)
        columns = len(seeds) // config.count
        inline = config.kind == "inline"
        closing = threading.Event()

        def check() -> None:
            if closing.is_set():
                raise Cancelled

        # pools beside each other share the cores
        threads = max(1, usable_cores() // config.count)
        with ExitStack() as made:
            players = []
            for index, generator in enumerate(generators):
                own = seeds[index * columns : (index + 1) * columns]
                pool = env.make(columns, own, num_threads=threads)
                made.callback(pool.close)
                players.append(
                    _Player(
                        Pulse(f"actor-{index}", poll if inline else check),
                        index * columns,
                        copy.deepcopy(policy).to(generator.device),
                        pool,
                        self._weights,
                        generator=generator,
                        unroll_length=unroll_length,
                        extras=extras,
                        buffers=1 if inline else config.buffers,
                        cpu_threads=config.cpu_threads,
                        pin_memory=generator.device.type == "cpu" and self._device.type == "cuda",
                    )
                )
            made.pop_all()
        self.pulses = [player.pulse for player in players]
        """Each actor's sign of life."""
        self._source: _Source = (
            _Inline(players) if inline else _Threads(players, closing=closing, poll=poll)
        )

    def start(self, policy: Policy) -> None:
        """Begin to play with these weights."""
        self.publish(policy)
        self._source.start()

    def publish(self, policy: Policy) -> None:
        """Hand the actors new weights; they take them over before their next unroll."""
        self._weights.publish(policy)

    @property
    def version(self) -> int:
        """How many times weights have been published."""
        return self._weights.version

    def next_batch(self) -> Batch:
        """Columns for the learner, as soon as enough are finished.

        Raises what an actor raised, with its traceback, as soon as one did.
        """
        if not self.version:
            raise RuntimeError("next_batch() before start(): nobody plays yet")
        return self._assembly.next_batch(self._source.take)

    def close(self) -> None:
        """End all actors and close their environments. Waits for the steps that are under way."""
        self._source.close()


class _Player:
    """One actor: its pool, its copy of the policy, its buffers."""

    def __init__(
        self,
        pulse: Pulse,
        first_column: int,
        policy: Policy,
        env: VectorEnv,
        weights: Weights,
        *,
        generator: torch.Generator,
        unroll_length: int,
        extras: Extras,
        buffers: int,
        cpu_threads: int,
        pin_memory: bool,
    ) -> None:
        self.pulse = pulse
        self.env = env
        self.cpu_threads = cpu_threads
        self.device = generator.device
        self.free: queue.SimpleQueue[Rollout | None] = queue.SimpleQueue()
        """Buffers to play into; None asks the actor to end."""
        self._first_column = first_column
        self._policy = policy
        self._weights = weights
        self._version = 0
        self._generator = generator
        self._unroll_length = unroll_length
        self._extras = extras
        self._buffers = buffers
        self._pin_memory = pin_memory
        self._stopwatch = Stopwatch()

    def begin(self) -> None:
        """Start the environment's episodes."""
        self._version = self._weights.fetch(self._policy, self._version)
        actor = Actor(
            self._policy,
            self.env,
            generator=self._generator,
            stopwatch=self._stopwatch,
            pulse=self.pulse,
        )
        self._collector = Collector(actor, self._unroll_length, extras=self._extras)
        for _ in range(self._buffers):
            self.free.put(self._collector.new_rollout(pin_memory=self._pin_memory))
        self._last = time.perf_counter()

    def unroll(self) -> Unroll | None:
        """Play T steps with the newest weights once a buffer is free; None where asked to end."""
        with self._stopwatch("actor_waiting"):
            buffer = self.free.get()
        if buffer is None:
            return None
        self._version = self._weights.fetch(self._policy, self._version)
        rollout, games = self._collector.collect(buffer)
        synchronize(self.device)
        now = time.perf_counter()
        wall, self._last = now - self._last, now
        return Unroll(
            rollout=rollout,
            release=partial(self.free.put, buffer),
            version=self._version,
            # a game's column is one of all actors' together
            games=[replace(game, column=self._first_column + game.column) for game in games],
            seconds=self._stopwatch.take(),
            wall=wall,
        )


class _Source(Protocol):
    """Where finished unrolls come from."""

    def start(self) -> None: ...
    def take(self) -> Unroll: ...
    def close(self) -> None: ...


class _Inline:
    """Players that take turns in the caller's thread."""

    def __init__(self, players: list[_Player]) -> None:
        self._players = players
        self._turn = 0

    def start(self) -> None:
        for player in self._players:
            player.begin()

    def take(self) -> Unroll:
        player = self._players[self._turn]
        self._turn = (self._turn + 1) % len(self._players)
        unroll = player.unroll()
        assert unroll is not None  # nobody asks an inline player to end
        return unroll

    def close(self) -> None:
        for player in self._players:
            player.env.close()


class _Threads:
    """A thread for each player."""

    def __init__(
        self, players: list[_Player], *, closing: threading.Event, poll: Callable[[], object]
    ) -> None:
        """``closing`` ends the players at their next step; ``poll`` is called while waiting."""
        self._players = players
        self._closing = closing
        self._poll = poll
        self._finished: queue.SimpleQueue[Unroll | BaseException] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._play, args=(player,), name=player.pulse.name, daemon=True)
            for player in players
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def take(self) -> Unroll:
        # A queue that is never empty must not keep the poll from being asked: it tells, too, of an
        # actor that hangs while the others feed the learner.
        while True:
            self._poll()
            try:
                item = self._finished.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            return item

    def close(self) -> None:
        self._closing.set()
        for player in self._players:
            player.free.put(None)  # wakes one that waits for a buffer
        start = time.monotonic()
        for player, thread in zip(self._players, self._threads, strict=True):
            patience = _patience(player.pulse)
            if thread.ident is not None:
                thread.join(max(0.0, start + patience - time.monotonic()))
            if thread.is_alive():
                warnings.warn(
                    f"{thread.name} has not ended within {patience:.0f} seconds: its environment "
                    "hangs, and ends with the process",
                    stacklevel=2,
                )
            else:
                player.env.close()

    def _play(self, player: _Player) -> None:
        try:
            with ExitStack() as stack:
                if player.device.type == "cuda":
                    stack.enter_context(torch.cuda.device(player.device))
                    stack.enter_context(torch.cuda.stream(torch.cuda.Stream(player.device)))
                else:
                    torch.set_num_threads(player.cpu_threads)  # of this thread alone
                player.begin()
                while (unroll := player.unroll()) is not None:
                    self._finished.put(unroll)
        except Cancelled:
            pass
        except BaseException as error:
            error.add_note(f"This happened in {threading.current_thread().name}.")
            self._finished.put(error)


def _patience(pulse: Pulse) -> float:
    """Seconds to wait for a player to come to the end of its step."""
    if pulse.unroll_seconds is None:  # its first step may be compiling
        return STOP_SECONDS
    return min(STOP_SECONDS, max(STEP_SECONDS, 2 * pulse.unroll_seconds))
