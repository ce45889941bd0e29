"""The alignment of acting and learning: what the learner replays is what the actor did."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fwp_rl.cores import CORES, Core, CoreConfig
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.cores.srwm import SRWMConfig
from fwp_rl.envs import EnvStep
from fwp_rl.envs.toy import ScriptedConfig, ScriptedEpisode
from fwp_rl.models.actions import Greedy
from fwp_rl.models.categorical import log_prob
from fwp_rl.models.encoders import MLPConfig
from fwp_rl.models.policy import Policy, PolicyConfig
from fwp_rl.rl.collector import Actor, Collector, Extra
from fwp_rl.rl.pulse import Cancelled, Pulse
from fwp_rl.rl.replay import replay, select_columns
from fwp_rl.types import Rollout, State

LENGTH, COLUMNS = 7, 4


def episode(length: int, end: str, reward: float = 1.0) -> ScriptedEpisode:
    return ScriptedEpisode(rewards=(reward,) * length, end=end)  # type: ignore[arg-type]


# ends of each kind, at lengths that put them and their dummies on every place of a rollout
SCRIPT = ScriptedConfig(
    columns=(
        (episode(3, "terminated"), episode(5, "truncated", -3.0)),
        (episode(6, "truncated"), episode(1, "terminated")),
        (episode(1, "truncated", 0.5), episode(2, "life_lost"), episode(4, "terminated")),
        (episode(40, "terminated"),),
    )
)


def make_actor(core: CoreConfig, *, precision: Literal["float32", "bfloat16"] = "float32") -> Actor:
    torch.manual_seed(0)
    config = PolicyConfig(
        encoder=MLPConfig(hidden_sizes=(16,)), core=core, last_action=True, precision=precision
    )
    policy = Policy(config, SCRIPT.spec())
    with torch.no_grad():  # the heads' small initial weights would hide a difference
        policy.policy_head.weight.mul_(100)
    env = SCRIPT.make(COLUMNS, range(COLUMNS))
    return Actor(policy, env, generator=torch.Generator().manual_seed(1))


def deviation(policy: Policy, rollout: Rollout) -> float:
    """Largest difference, at steps that count, between stored and replayed log-probabilities."""
    output = replay(policy, rollout, start=0, stop=LENGTH)
    new, old = (log_prob(x, rollout.action) for x in (output.logits, rollout.behaviour_logits))
    return (new - old)[rollout.mask].abs().max().item()


@pytest.mark.parametrize("name", sorted(CORES))
def test_replayed_log_probabilities_equal_the_stored_ones(name: str) -> None:
    actor = make_actor(CORES[name]())
    collector = Collector(actor, LENGTH)
    seen = dict.fromkeys(("reset", "dummy", "truncated", "terminated"), 0)
    for _ in range(12):
        rollout, _ = collector.collect()
        assert deviation(actor.policy, rollout) < 1e-4
        columns = torch.tensor([2, 0])
        assert deviation(actor.policy, select_columns(rollout, columns)) < 1e-4
        seen["reset"] += int(rollout.observation.reset[1:].sum())
        seen["dummy"] += int((~rollout.mask).sum())
        seen["truncated"] += int(rollout.truncated.sum())
        seen["terminated"] += int(rollout.terminated.sum())
    assert min(seen.values()) > 10


@pytest.mark.parametrize("name", sorted(CORES))
def test_the_identity_holds_in_bfloat16(name: str) -> None:
    actor = make_actor(CORES[name](), precision="bfloat16")
    collector = Collector(actor, LENGTH)
    for _ in range(4):
        rollout, _ = collector.collect()
        assert deviation(actor.policy, rollout) < 2e-2


def _reset_one_step_late(rollout: Rollout) -> None:
    rollout.observation.reset = rollout.observation.reset.roll(1, dims=0)


def _reset_at_the_dummy(rollout: Rollout) -> None:
    rollout.observation.reset = rollout.observation.reset.roll(-1, dims=0)


def _fresh_initial_state(rollout: Rollout) -> None:
    rollout.initial_state = tuple(torch.zeros_like(leaf) for leaf in rollout.initial_state)


def _late_last_action(rollout: Rollout) -> None:
    rollout.observation.last_action = rollout.observation.last_action.roll(1, dims=0)


LOUD: dict[str, CoreConfig] = {"srwm": SRWMConfig(initial_scale=8.0)}
"""Where the default config writes next to nothing at the start."""


@pytest.mark.parametrize("name", sorted(set(CORES) - {"feedforward"}))
@pytest.mark.parametrize(
    "fault", [_reset_one_step_late, _reset_at_the_dummy, _fresh_initial_state, _late_last_action]
)
def test_the_identity_notices_every_misalignment(
    name: str, fault: Callable[[Rollout], None]
) -> None:
    actor = make_actor(LOUD.get(name) or CORES[name]())
    with torch.no_grad():  # some memories hardly speak up with their initial weights
        for parameter, weight in actor.policy.core.named_parameters():
            if parameter.endswith("out.weight"):
                weight.mul_(10)
    collector = Collector(actor, LENGTH)
    collector.collect()
    rollout, _ = collector.collect()
    fault(rollout)
    assert deviation(actor.policy, rollout) > 1e-3


@dataclass(frozen=True, kw_only=True)
class CountingConfig(CoreConfig):
    """A core whose memory is the number of inputs since the last reset."""

    def build(self, input_size: int) -> Core:
        return CountingCore(self, input_size)


class CountingCore(Core):
    output_size = 1

    def __init__(self, config: CoreConfig, input_size: int) -> None:
        super().__init__(config, input_size)
        self.counts: list[Tensor] = []

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        return (torch.zeros(batch_size, device=device),)

    def unroll(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        (count,) = state
        for t in range(len(x)):
            count = torch.where(reset[t], 0.0, count)
            self.counts.append(count)
            count = count + 1
        return x[..., :1], (count,)


def test_a_counting_core_stays_in_step_with_a_counting_environment() -> None:
    actor = make_actor(CountingConfig())
    core = actor.policy.core
    assert isinstance(core, CountingCore)
    collector = Collector(actor, LENGTH)
    for _ in range(12):
        core.counts.clear()
        rollout, _ = collector.collect()
        step_of_episode = rollout.observation.obs[..., 2]
        torch.testing.assert_close(torch.stack(core.counts), step_of_episode[:LENGTH])
        actor.bootstrap_value()
        torch.testing.assert_close(core.counts[-1], step_of_episode[LENGTH])
        core.counts.clear()
        replay(actor.policy, rollout, start=3, stop=LENGTH)
        torch.testing.assert_close(torch.stack(core.counts), step_of_episode[:LENGTH])


def test_last_reward_and_last_action_belong_to_the_step_before() -> None:
    actor = make_actor(FeedforwardConfig())
    collector = Collector(actor, LENGTH)
    carried_reward = carried_action = None
    for _ in range(6):
        rollout, _ = collector.collect()
        observation = rollout.observation
        reset = observation.reset
        reward = rollout.reward.clamp(-1, 1).masked_fill(reset[1:], 0)
        torch.testing.assert_close(observation.last_reward[1:], reward)
        action = rollout.action.masked_fill(reset[1:], -1)
        torch.testing.assert_close(observation.last_action[1:], action)
        if carried_reward is None:
            assert (observation.last_reward[0] == 0).all()
            assert (observation.last_action[0] == -1).all()
        else:  # the last entry of one rollout is the first of the next
            torch.testing.assert_close(observation.last_reward[0], carried_reward)
            torch.testing.assert_close(observation.last_action[0], carried_action)
        carried_reward = observation.last_reward[LENGTH].clone()
        carried_action = observation.last_action[LENGTH].clone()


def test_games_are_whole_games_over_all_lives() -> None:
    actor = make_actor(FeedforwardConfig())
    collector = Collector(actor, LENGTH)
    games = [game for _ in range(12) for game in collector.collect()[1]]
    of_column_2 = [(g.episode_return, g.length, g.truncated) for g in games if g.column == 2]
    assert of_column_2[:3] == [(0.5, 1, True), (6.0, 6, False), (0.5, 1, True)]


def test_bootstrap_leaves_the_state_alone() -> None:
    actor = make_actor(CORES["lstm"]())
    actor.step()
    before = [leaf.clone() for leaf in actor.state]
    torch.testing.assert_close(actor.bootstrap_value(), actor.bootstrap_value())
    for leaf, old in zip(actor.state, before, strict=True):
        torch.testing.assert_close(leaf, old)


def test_greedy_and_sampled_actions() -> None:
    actor = make_actor(FeedforwardConfig())
    actor.rule = Greedy()
    step = actor.step()
    assert (step.action == step.output.logits[0].argmax(-1)).all()
    again = [make_actor(FeedforwardConfig()) for _ in range(2)]
    first, second = ([actor.step().action for _ in range(20)] for actor in again)
    assert torch.equal(torch.stack(first), torch.stack(second))


class CountsCasts(TorchDispatchMode):
    """Counts casts of matrices to bfloat16, by shape."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if op is torch.ops.aten._to_copy.default and kwargs.get("dtype") == torch.bfloat16:
            self.shapes[tuple(args[0].shape)] += 1
        return op(*args, **kwargs)


def test_a_rollout_casts_each_weight_once_and_the_next_one_anew() -> None:
    actor = make_actor(FeedforwardConfig(), precision="bfloat16")
    collector = Collector(actor, LENGTH)
    weights = [x for x in actor.policy.encoder.parameters() if x.dim() == 2]
    for rounds in (1, 2):
        with CountsCasts() as casts:
            rollout, _ = collector.collect()
        assert [casts.shapes[tuple(x.shape)] for x in weights] == [1] * len(weights), rounds
        assert deviation(actor.policy, rollout) < 2e-2
        with torch.no_grad():
            for weight in weights:
                weight.mul_(-2)
        assert deviation(actor.policy, rollout) > 0.1


def test_an_actor_may_be_stopped_within_a_rollout() -> None:
    """What the rollout keeps open is closed: weights that change are seen by the next call."""
    actor = make_actor(FeedforwardConfig(), precision="bfloat16")
    steps = iter(range(LENGTH - 2))

    def stop() -> None:
        if next(steps, None) is None:
            raise Cancelled

    actor.pulse = Pulse("stopped", stop)
    with pytest.raises(Cancelled):
        Collector(actor, LENGTH).collect()
    before = actor.bootstrap_value()
    with torch.no_grad():
        for weight in actor.policy.encoder.parameters():
            weight.mul_(-2)
    assert not torch.allclose(actor.bootstrap_value(), before)


def test_flags_may_stand_in_arrays_that_are_reused() -> None:
    def collected(reuse: bool) -> list[Tensor]:
        actor = make_actor(FeedforwardConfig())
        play, kept = actor.env.step, {}

        def step(action: NDArray[Any]) -> EnvStep:
            answer = play(action)
            for name in ("reset", "reward", "terminated", "truncated", "mask"):
                array = kept.setdefault(name, np.empty_like(getattr(answer, name)))
                array[:] = getattr(answer, name)
                setattr(answer, name, array)
            return answer

        if reuse:
            actor.env.step = step  # type: ignore[method-assign]
        collector = Collector(actor, LENGTH)
        return [x.clone() for _ in range(3) for x in collector.collect()[0].tensors()]

    for fresh, reused in zip(collected(False), collected(True), strict=True):
        assert torch.equal(fresh, reused)


def test_what_an_agent_names_is_collected_beside_the_rest() -> None:
    """Of each step what it was of that step, in every environment, in every buffer."""
    actor = make_actor(CORES["lstm"]())
    extras = {
        "best": Extra(read=lambda step: step.output.logits[0].amax(-1)),
        "logits": Extra(read=lambda step: step.output.logits[0].clone(), shape=(3,)),
        "reset": Extra(read=lambda step: step.observation.reset[0], dtype=torch.bool),
    }
    collector = Collector(actor, LENGTH, extras=extras)
    buffers = [None, collector.new_rollout(), None]
    for buffer in buffers:
        rollout, _ = collector.collect(buffer)
        assert list(rollout.extras) == list(extras)
        assert torch.equal(rollout.extras["logits"], rollout.behaviour_logits)
        assert torch.equal(rollout.extras["best"], rollout.behaviour_logits.amax(-1))
        assert torch.equal(rollout.extras["reset"], rollout.observation.reset[:-1])
        part = select_columns(rollout, torch.tensor([2, 0]))
        assert torch.equal(part.extras["logits"], rollout.behaviour_logits[:, [2, 0]])


def test_an_extra_of_another_form_is_named() -> None:
    actor = make_actor(FeedforwardConfig())
    wrong = {"value": Extra(read=lambda step: step.output.value[0], shape=(2,))}
    with pytest.raises(
        ValueError, match=r"extra 'value': got torch.float32 \[4\], expected .* 2\]"
    ):
        Collector(actor, LENGTH, extras=wrong).collect()
