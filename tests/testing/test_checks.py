"""The checks notice what is wrong: each fault is planted in something that passes all of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fwp_rl.cores import Core, CoreConfig
from fwp_rl.envs import EnvStep
from fwp_rl.envs.bookkeeping import check_columns
from fwp_rl.envs.toy import RecallConfig, RecallEnv
from fwp_rl.testing import check_core, check_env
from fwp_rl.types import State


@dataclass(frozen=True, kw_only=True)
class AverageConfig(CoreConfig):
    """h ← (reset ? 0 : h) / 2 + x, which nothing but ``fault`` makes wrong."""

    fault: str = ""

    def build(self, input_size: int) -> Core:
        return _Average(self, input_size, self.fault)


class _Average(Core):
    def __init__(self, config: CoreConfig, input_size: int, fault: str) -> None:
        super().__init__(config, input_size)
        self.output_size, self.fault = input_size, fault
        self.scale = nn.Parameter(torch.ones(input_size))
        self.hidden = torch.rand(input_size)  # no parameter, no buffer

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        fill = torch.ones if self.fault == "starts from ones" else torch.zeros
        return (fill(batch_size, self.input_size, device=device),)

    def unroll(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        (h,), ys = state, []
        if self.fault == "writes to the state":
            with torch.no_grad():
                h.mul_(0.5)
        for t in range(len(x)):
            h = self.forget(h, reset[t, :, None]) / 2 + self.scale * x[t]
            if self.fault == "mixes columns":
                h = h + h.mean(dim=0)
            ys.append(h)
        if self.fault == "counts steps":
            ys = [y * t for t, y in enumerate(ys)]
        if self.fault == "hides a weight":
            ys = [y * self.hidden for y in ys]
        if self.fault == "detaches":
            h = h.detach()
            ys = [y.detach() + 0 * self.scale * x[t] for t, y in enumerate(ys)]
        return torch.stack(ys), (h.double() if self.fault == "carries doubles" else h,)

    def forget(self, h: Tensor, reset: Tensor) -> Tensor:
        if self.fault == "forgets nothing":
            return h
        if self.fault == "multiplies by the reset":
            return h * ~reset
        return h.masked_fill(reset, 0)


def test_a_core_that_keeps_the_contract_passes() -> None:
    check_core(AverageConfig())


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("starts from ones", "shapes_and_dtypes: the initial state is not zero"),
        ("carries doubles", "shapes_and_dtypes: a leaf is torch.float64"),
        ("counts steps", "one_call_equals_single_steps"),
        ("forgets nothing", "reset_is_a_fresh_start"),
        ("multiplies by the reset", "nan_before_a_reset_does_not_pass_it"),
        ("mixes columns", "reset_is_a_fresh_start|columns_are_independent"),
        ("writes to the state", "one_call_equals_single_steps|the_state_passed_in_is_not_changed"),
        ("hides a weight", "state_dict_round_trip"),
        ("detaches", "no gradient reaches"),
    ],
)
def test_a_fault_of_a_core_is_named(fault: str, check: str) -> None:
    with pytest.raises(AssertionError, match=check):
        check_core(AverageConfig(fault=fault))


@dataclass(frozen=True, kw_only=True)
class FaultyConfig(RecallConfig):
    """Recall with a fault."""

    fault: str = ""

    def make(self, num_envs: int, seeds: Any, **kwargs: Any) -> RecallEnv:
        seeds = check_columns(num_envs, seeds, kwargs.get("num_threads"))
        if self.fault == "ignores seeds":
            seeds = [0] * num_envs
        elif self.fault == "draws seeds":
            seeds = np.random.default_rng().integers(2**31, size=num_envs).tolist()
        env = RecallEnv(self, seeds, render=kwargs.get("render", False))
        if self.fault in FAULTS:
            change, play = FAULTS[self.fault], env.step
            env.step = lambda action: change(env, play(action))  # type: ignore[method-assign]
        return env


def reused(env: Any, answer: EnvStep) -> EnvStep:
    if not hasattr(env, "buffer"):
        env.buffer = np.zeros_like(answer.obs)
    env.buffer[:] = answer.obs
    return replace(answer, obs=env.buffer)


FAULTS: dict[str, Callable[[Any, EnvStep], EnvStep]] = {
    "reuses arrays": reused,
    "rewards a dummy": lambda env, answer: replace(
        answer, reward=(answer.reward + ~answer.mask).astype(np.float32)
    ),
    "resets at the dummy": lambda env, answer: replace(
        answer, reset=answer.terminated | answer.truncated
    ),
    "has no dummies": lambda env, answer: replace(answer, mask=np.ones_like(answer.mask)),
    "answers doubles": lambda env, answer: replace(answer, obs=answer.obs.astype(np.float64)),
    "counts no games": lambda env, answer: replace(answer, games=[]),
    "miscounts games": lambda env, answer: replace(
        answer, games=[replace(game, length=game.length + 1) for game in answer.games]
    ),
}

TASK: dict[str, Any] = {"min_delay": 0, "max_delay": 4, "time_limit": 5}


def test_an_environment_that_keeps_the_contract_passes() -> None:
    check_env(FaultyConfig(**TASK))


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("reuses arrays", "arrays_are_the_callers"),
        ("rewards a dummy", "the dummy after an end: it has a reward"),
        ("resets at the dummy", "one_dummy_after_each_end"),
        ("has no dummies", "the dummy after an end: mask is 1"),
        ("answers doubles", "shapes_and_types_are_those_of_the_spec: observations are float64"),
        ("counts no games", "games_agree_with_the_stream"),
        ("miscounts games", "games_agree_with_the_stream"),
        ("ignores seeds", "other_seeds_are_other_streams"),
        ("draws seeds", "the_same_seeds_give_the_same_stream"),
    ],
)
def test_a_fault_of_an_environment_is_named(fault: str, check: str) -> None:
    with pytest.raises(AssertionError, match=check):
        check_env(FaultyConfig(fault=fault, **TASK))


def test_an_environment_that_does_not_play_is_named() -> None:
    def fail(env: Any, answer: EnvStep) -> EnvStep:
        raise RuntimeError("no")

    FAULTS["fails"] = fail
    with pytest.raises(AssertionError, match="play: RuntimeError: no"):
        check_env(FaultyConfig(fault="fails", **TASK))


def test_actions_out_of_range_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def accept(action: NDArray[Any], num_envs: int, num_actions: int) -> NDArray[Any]:
        return np.resize(np.nan_to_num(action), num_envs)

    monkeypatch.setattr("fwp_rl.envs.toy.check_action", accept)
    with pytest.raises(AssertionError, match=r"bad_actions_are_refused.*nothing was raised"):
        check_env(FaultyConfig(**TASK))
