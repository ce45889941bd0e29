"""What an agent tracks comes back from a checkpoint as it was, or is refused as a whole."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.models import MLPConfig, Policy
from fwp_rl.runs.checkpoint import CheckpointError, checkpoint_steps, load_checkpoint
from fwp_rl.runs.files import dump_json, parse_json
from fwp_rl.runs.tracked import check_states, describe_states, load_states
from fwp_rl.training.session import TrainingSession

from .cases import Trainer


class Holder:
    """Holds any state."""

    def __init__(self, state: Any = None, *, refuses: bool = False) -> None:
        self.state = {} if state is None else state
        self.refuses = refuses

    def state_dict(self) -> Mapping[str, Any]:
        return self.state  # type: ignore[no-any-return]

    def load_state_dict(self, state: Any) -> None:
        if self.refuses:
            self.refuses = False
            raise ValueError("too small")
        self.state = state


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (a != a and b != b)


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([torch.float32, torch.int64, torch.bool]).map(
        lambda dtype: torch.arange(6).reshape(2, 3).to(dtype)
    )
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=8,
)
states = st.dictionaries(st.text(max_size=4), trees, max_size=3)


@settings(max_examples=60, deadline=None)
@given(states)
def test_any_state_comes_back_as_it_was(state: dict[str, Any]) -> None:
    trees, tensors = describe_states({"thing": Holder(state), "empty": Holder()})
    read = parse_json(dump_json(trees), Path("state.json"))
    back = {"thing": Holder(), "empty": Holder({"old": 1})}
    check_states(back, read, tensors, "here")
    load_states(back, read, tensors, "here")
    assert same(back["thing"].state, state)
    assert back["empty"].state == {}


def restored(path: Path, **tracked: Holder) -> None:
    trainer = Trainer("adam", 0)
    load_checkpoint(path).restore(trainer.policy, trainer.optimizer, trainer.generators, tracked)


def test_other_things_than_were_saved_are_refused(tmp_path: Path) -> None:
    path = Trainer("adam", 0).save(tmp_path, 1, tracked={"norm": Holder({"mean": 1.5})})
    with pytest.raises(CheckpointError, match="holds no state of target"):
        restored(path, norm=Holder(), target=Holder())
    with pytest.raises(CheckpointError, match="holds the state of norm, which this run does not"):
        restored(path)
    without = Trainer("adam", 0).save(tmp_path / "other", 1)
    with pytest.raises(CheckpointError, match="holds no state of norm"):
        restored(without, norm=Holder())


def test_where_one_state_is_not_taken_all_stay_as_they_were(tmp_path: Path) -> None:
    trainer = Trainer("adam", 0)
    trainer.train(2)
    path = trainer.save(tmp_path, 1, tracked={"a": Holder({"n": 1}), "b": Holder({"n": 2})})
    other = Trainer("adam", 5)
    other.train(1)
    before = {name: x.clone() for name, x in other.policy.state_dict().items()}
    a, b = Holder({"n": 8}), Holder({"n": 9}, refuses=True)
    with pytest.raises(CheckpointError, match="holds no state that b can take over: 'too small'"):
        load_checkpoint(path).restore(
            other.policy, other.optimizer, other.generators, {"a": a, "b": b}
        )
    assert (a.state, b.state) == ({"n": 8}, {"n": 9})
    assert all(torch.equal(x, before[name]) for name, x in other.policy.state_dict().items())
    assert other.optimizer.state_dict()["state"][0]["step"] == 1


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"f": print}, "thing.f: its state holds a builtin_function_or_method"),
        ({"x": [{(1, 2): 0}]}, r"thing\.x\.0: its state has the key \(1, 2\)"),
        ({"x": torch.tensor([1.0, math.nan])}, r"thing\.x holds NaN: not saved"),
    ],
)
def test_what_no_file_can_hold_is_named(state: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        Trainer("adam", 0).save(tmp_path, 1, tracked={"thing": Holder(state)})
    assert checkpoint_steps(tmp_path) == []


CONFIG = PPOConfig(
    env=RecallConfig(),
    encoder=MLPConfig(hidden_sizes=(4,)),
    core=FeedforwardConfig(),
    num_envs=2,
    minibatches=1,
    total_steps=100,
    plain=True,
)


class Learner:
    """A loop of two optimizers, a schedule, a running mean and a slow copy of the network."""

    def __init__(self, session: TrainingSession) -> None:
        torch.manual_seed(7)
        self.policy = Policy(CONFIG, CONFIG.env.spec())
        self.slow = session.track("slow", nn.Linear(3, 2))
        self.norm = session.track("norm", nn.BatchNorm1d(3, affine=False))
        self.second = session.track("second", torch.optim.SGD(self.slow.parameters(), 0.1, 0.9))
        self.schedule = session.track(
            "schedule", torch.optim.lr_scheduler.ExponentialLR(self.second, 0.5)
        )
        session.begin(self.policy, torch.optim.Adam(self.policy.parameters()))

    def learn(self, session: TrainingSession, updates: int) -> None:
        for _ in range(updates):
            x = self.norm(torch.full((4, 3), float(session.step)) + torch.eye(4, 3))
            self.second.zero_grad()
            self.slow(x).square().sum().backward()
            self.second.step()
            self.schedule.step()
            session.log(1, [], {})

    def all(self) -> dict[str, Any]:
        items = (self.slow, self.norm, self.second, self.schedule)
        return {type(item).__name__: dict(item.state_dict()) for item in items}


def test_a_run_goes_on_with_all_that_its_agent_tracks(tmp_path: Path) -> None:
    """Five updates and a pause and five more are ten updates."""
    states = []
    for pauses in (0, 1):
        path = tmp_path / str(pauses)
        with TrainingSession(replace(CONFIG, run_dir=str(path))) as session:
            learner = Learner(session)
            learner.learn(session, 5 if pauses else 10)
            session.save()
        if pauses:
            with TrainingSession(replace(CONFIG, run_dir=str(path)), resume=path) as session:
                learner = Learner(session)
                assert session.step == 5
                learner.learn(session, 5)
        states.append(learner.all())
    assert same(*states)
    assert states[0]["SGD"]["param_groups"][0]["lr"] == 0.1 * 0.5**10


def test_a_name_is_given_once_and_before_the_run_begins(tmp_path: Path) -> None:
    with TrainingSession(replace(CONFIG, run_dir=str(tmp_path / "run"))) as session:
        for wrong in ("", "a.b", "a b", "1st"):
            with pytest.raises(ValueError, match="expected one like"):
                session.track(wrong, Holder())
        Learner(session)
        with pytest.raises(RuntimeError, match="after begin"):
            session.track("late", Holder())
    with TrainingSession(replace(CONFIG, run_dir=str(tmp_path / "other"))) as session:
        session.track("one", Holder())
        with pytest.raises(ValueError, match="'one' is tracked already"):
            session.track("one", Holder())
