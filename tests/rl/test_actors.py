"""Actors and their batches: nothing lost, nothing mixed up, no thread left behind."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch

from fwp_rl.config import ConfigError
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.envs import EnvConfig, VectorEnv
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.envs.toy import RecallConfig, ScriptedConfig, ScriptedEpisode
from fwp_rl.machine import cpu_threads
from fwp_rl.models.categorical import log_prob
from fwp_rl.models.encoders import MLPConfig, NatureCNNConfig
from fwp_rl.models.policy import Policy, PolicyConfig
from fwp_rl.rl.actors import Actors, ActorsConfig, Batch
from fwp_rl.rl.collector import NO_EXTRAS, Extra, Extras
from fwp_rl.rl.replay import replay

KINDS = ("threads", "inline")
Kind = Literal["threads", "inline"]
CORE = DeltaNetConfig(layers=1, hidden_size=8, heads=2, feedforward_size=8)
LENGTH = 5
SCRIPT = ScriptedConfig(
    columns=(
        (ScriptedEpisode(rewards=(1.0,) * 3), ScriptedEpisode(rewards=(2.0,) * 4, end="truncated")),
        (ScriptedEpisode(rewards=(0.5,) * 6, end="truncated"), ScriptedEpisode(rewards=(1.0,))),
        (ScriptedEpisode(rewards=(1.0,) * 40),),
    )
)


def make_policy(env: EnvConfig) -> Policy:
    torch.manual_seed(0)
    encoder = NatureCNNConfig(features=16) if len(env.spec().observation_shape) == 3 else None
    config = PolicyConfig(encoder=encoder or MLPConfig(hidden_sizes=(8,)), core=CORE)
    policy = Policy(config, env.spec())
    with torch.no_grad():  # the small initial weights of the head would hide a difference
        policy.policy_head.weight.mul_(100)
    return policy


def make_actors(
    env: EnvConfig,
    policy: Policy,
    kind: Kind,
    *,
    count: int = 2,
    columns: int = 3,
    batch_size: int = 4,
    buffers: int = 2,
    extras: Extras = NO_EXTRAS,
) -> Actors:
    return Actors(
        ActorsConfig(kind=kind, count=count, buffers=buffers),
        env,
        policy,
        seeds=range(count * columns),
        generators=[torch.Generator().manual_seed(i) for i in range(count)],
        unroll_length=LENGTH,
        batch_size=batch_size,
        extras=extras,
    )


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("actor-")]


def test_inline_batches_take_columns_in_turn_and_lose_no_step() -> None:
    """6 columns in batches of 4: every batch goes on where the columns' last unrolls ended."""
    policy = make_policy(SCRIPT)
    ends: dict[int, torch.Tensor] = {}
    with closing(make_actors(SCRIPT, policy, "inline")) as actors:
        actors.start(policy)
        for index in range(12):
            rollout = actors.next_batch().rollout
            for column in range(4):
                which = (4 * index + column) % 6  # of both actors' three
                obs = rollout.observation.obs[:, column]
                assert (obs[:, 0] == which % 3).all()
                if which in ends:
                    assert torch.equal(obs[0], ends[which])
                ends[which] = obs[LENGTH].clone()


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_learner_replays_is_what_the_actors_did(kind: Kind) -> None:
    """Log-probabilities agree in columns that the present weights played, and not in the rest."""
    policy = make_policy(SCRIPT)
    fresh, stale, off = 0, 0, 0
    extras = {"said": Extra(read=lambda step: step.output.logits[0].clone(), shape=(3,))}
    with closing(make_actors(SCRIPT, policy, kind, extras=extras)) as actors:
        actors.start(policy)
        for _ in range(10):
            batch = actors.next_batch()
            rollout = batch.rollout
            assert torch.equal(rollout.extras["said"], rollout.behaviour_logits)
            with torch.no_grad():
                logits = replay(policy, rollout, start=0, stop=LENGTH).logits
            new, old = (log_prob(x, rollout.action) for x in (logits, rollout.behaviour_logits))
            error = torch.where(rollout.mask, (new - old).abs(), 0.0).amax(0)
            now = batch.version == actors.version
            assert (batch.version <= actors.version).all()
            assert (error[now] < 1e-4).all()
            off += int((error[~now] > 1e-3).sum())
            fresh, stale = fresh + int(now.sum()), stale + int((~now).sum())
            with torch.no_grad():
                for parameter in policy.parameters():
                    parameter.add_(0.3 * torch.randn(parameter.shape))
            actors.publish(policy)
            time.sleep(0.02)
    assert fresh + stale == 40
    assert off >= stale / 2  # a column may have had no step that tells
    if kind == "inline":
        assert fresh >= 20


@pytest.mark.parametrize("kind", KINDS)
def test_every_game_is_reported_once(kind: Kind) -> None:
    policy = make_policy(SCRIPT)
    with closing(make_actors(SCRIPT, policy, kind, count=1, batch_size=3)) as actors:
        actors.start(policy)
        batches = []
        for _ in range(20):
            batch = actors.next_batch()
            batches.append(
                (
                    len(batch.games),
                    (batch.rollout.terminated.sum().item(), batch.rollout.truncated.sum().item()),
                )
            )
    for games, ends in batches:
        assert games == sum(ends)
    assert sum(games for games, _ in batches) > 20


def test_inline_is_the_same_from_run_to_run() -> None:
    def actions() -> list[torch.Tensor]:
        policy = make_policy(RecallConfig())
        with closing(make_actors(RecallConfig(), policy, "inline")) as actors:
            actors.start(policy)
            return [actors.next_batch().rollout.action.clone() for _ in range(5)]

    assert all(torch.equal(a, b) for a, b in zip(actions(), actions(), strict=True))


class Hooked(EnvConfig):
    """Calls ``hook()`` before each step of the environments; a hook for each ``make``."""

    def hook(self) -> Callable[[], None]:
        raise NotImplementedError

    def make(
        self,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_threads: int | None = None,
        render: bool = False,
    ) -> Any:
        env = super().make(num_envs, seeds, num_threads=num_threads, render=render)
        play, before = env.step, self.hook()

        def step(action: Any) -> Any:
            before()
            return play(action)

        env.step = step  # type: ignore[method-assign]
        return env


@dataclass(frozen=True, kw_only=True)
class Counted(Hooked, ScriptedConfig):
    """A script that counts its steps."""

    steps: list[int] = field(default_factory=list)

    def hook(self) -> Callable[[], None]:
        return lambda: self.steps.append(1)


def test_buffers_bound_how_far_an_actor_runs_ahead() -> None:
    env = Counted(columns=SCRIPT.columns)
    policy = make_policy(SCRIPT)
    with closing(make_actors(env, policy, "threads", count=1, batch_size=3, buffers=2)) as actors:
        actors.start(policy)
        actors.next_batch()
        while len(env.steps) < 3 * LENGTH:  # the batch, and an unroll for each buffer
            time.sleep(0.01)
        time.sleep(0.3)  # for the unrolls that there must not be
        assert len(env.steps) == 3 * LENGTH
        for _ in range(2):
            actors.publish(policy)
        versions = [int(actors.next_batch().version[0]) for _ in range(4)]
    assert versions[:2] == [1, 1]
    assert versions[-1] == 3


@dataclass(frozen=True, kw_only=True)
class Failing(Hooked, RecallConfig):
    """Recall whose environments raise at a step."""

    at: int = 7

    def hook(self) -> Callable[[], None]:
        steps = iter(range(self.at))

        def fail() -> None:
            if next(steps, None) is None:
                raise ZeroDivisionError("planted")

        return fail


def play(actors: Actors, batches: int) -> None:
    for _ in range(batches):
        actors.next_batch()


@pytest.mark.parametrize("kind", KINDS)
def test_an_actors_exception_reaches_the_learner_with_its_traceback(kind: Kind) -> None:
    env = Failing()
    policy = make_policy(env)
    with closing(make_actors(env, policy, kind)) as actors:
        actors.start(policy)
        with pytest.raises(ZeroDivisionError, match="planted") as caught:
            play(actors, batches=10)
    assert "step" in [entry.name for entry in caught.traceback]
    if kind == "threads":
        assert "in actor-" in caught.value.__notes__[0]
    assert not threads()


def start_and_stop(env: EnvConfig, policy: Policy, index: int) -> None:
    with closing(make_actors(env, policy, "threads", columns=2)) as actors:
        actors.start(policy)
        for _ in range(index % 3):  # at once, after one batch, after two
            batch = actors.next_batch()
            assert isinstance(batch, Batch)
    assert not threads()


def test_a_hundred_starts_and_stops_leave_no_thread() -> None:
    policy = make_policy(RecallConfig())
    before = threading.active_count()
    for index in range(100):
        start_and_stop(RecallConfig(), policy, index)
    assert threading.active_count() == before


@pytest.mark.slow
def test_ten_starts_and_stops_of_envpool_leave_no_thread() -> None:
    env = AtariConfig(game="Pong")
    policy = make_policy(env)
    for index in range(10):
        start_and_stop(env, policy, index)


def test_closing_before_starting_is_fine() -> None:
    for kind in KINDS:
        make_actors(SCRIPT, make_policy(SCRIPT), kind).close()


class Closes(RecallConfig):
    """Counts the environments that are open."""

    open: list[int] = []  # noqa: RUF012

    def make(self, num_envs: int, seeds: Sequence[int], **rest: Any) -> VectorEnv:  # type: ignore[override]
        if len(self.open) == 1:
            raise OSError("no more")
        env: Any = RecallConfig.make(self, num_envs, seeds, **rest)
        self.open.append(num_envs)
        env.close = self.open.pop
        return env  # type: ignore[no-any-return]


def test_an_environment_that_cannot_be_made_closes_the_others() -> None:
    with pytest.raises(OSError, match="no more"):
        make_actors(Closes(), make_policy(RecallConfig()), "threads")
    assert Closes.open == []


def test_bad_configs_are_explained() -> None:
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda or cuda:N"):
        ActorsConfig(device="gpu")
    with pytest.raises(ConfigError, match="torch finds"):
        ActorsConfig(device="cuda:99").resolve_device(torch.device("cpu"))
    with pytest.raises(ConfigError, match="count: got 0"):
        ActorsConfig(count=0)
    policy = make_policy(SCRIPT)
    with pytest.raises(ConfigError, match="expected a divisor of num_envs = 5"):
        Actors(
            ActorsConfig(),
            SCRIPT,
            policy,
            seeds=range(5),
            generators=[torch.Generator()] * 2,
            unroll_length=2,
            batch_size=1,
        )


CORES_IN_USE: list[int] = []


@dataclass(frozen=True, kw_only=True)
class CountsCores(Hooked, RecallConfig):
    """Recall that notes, at each step, how many cores torch computes with there."""

    def hook(self) -> Callable[[], None]:
        return lambda: CORES_IN_USE.append(torch.get_num_threads())


@dataclass(frozen=True, kw_only=True)
class NotesThreads(RecallConfig):
    """Recall that notes how many threads each pool is given."""

    def make(
        self,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_threads: int | None = None,
        render: bool = False,
    ) -> Any:
        THREADS.append(num_threads)
        return super().make(num_envs, seeds, num_threads=num_threads, render=render)


THREADS: list[int | None] = []


@pytest.mark.parametrize(("cores", "threads"), [(7, 3), (1, 1)])
def test_pools_share_the_cores_that_the_process_may_use(
    cores: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fwp_rl.rl.actors.usable_cores", lambda: cores)
    THREADS.clear()
    env = NotesThreads()
    make_actors(env, make_policy(env), "inline").close()
    assert [threads, threads] == THREADS


def test_actors_compute_on_their_own_number_of_cores() -> None:
    """torch's count belongs to a Python thread: the learner's must stay what it is."""
    CORES_IN_USE.clear()
    env = CountsCores()
    policy = make_policy(env)
    with cpu_threads(2), closing(make_actors(env, policy, "threads")) as actors:
        actors.start(policy)
        play(actors, 3)
        assert torch.get_num_threads() == 2
    assert set(CORES_IN_USE) == {1}


@pytest.mark.parametrize(
    ("kind", "count", "device", "left"),
    [("threads", 2, "cpu", 6), ("threads", 16, "cpu", 1), ("inline", 2, "cpu", 8)],
)
def test_the_learner_computes_on_the_cores_that_actors_leave(
    monkeypatch, kind, count, device, left
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    config = ActorsConfig(kind=kind, count=count, device=device)
    assert config.cores_left(torch.device("cpu")) == left


def test_cores_are_given_back() -> None:
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
