import json
import pickle
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from fwp_rl.runs.checkpoint import (
    Checkpoint,
    CheckpointError,
    best,
    checkpoint_path,
    checkpoint_steps,
    load_checkpoint,
    newest_good,
    save_checkpoint,
)

from .cases import OPTIMIZERS, RUN, Trainer, network, reseal, steps_in


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_as_if_it_had_never_stopped(tmp_path, optimizer):
    unbroken = Trainer(optimizer, seed=1)
    unbroken.train(10)

    first = Trainer(optimizer, seed=1)
    first.train(5)
    path = first.save(tmp_path, 5)
    first.train(3)  # what was trained after the save must not leak into it
    second = Trainer(optimizer, seed=2)
    second.train(1)
    checkpoint = load_checkpoint(path)
    for _ in range(2):  # one checkpoint restores as often as one likes
        second.restore(checkpoint)
        second.train(5)
        for ours, theirs in zip(
            second.policy.parameters(), unbroken.policy.parameters(), strict=True
        ):
            assert torch.equal(ours, theirs)
        assert second.optimizer.param_groups[0].keys() == unbroken.optimizer.param_groups[0].keys()
    assert checkpoint.step == 5
    assert checkpoint.state["count"] == 7


def test_parameter_groups_and_untouched_optimizer(tmp_path):
    policy = network()
    optimizer = torch.optim.Adam(
        [
            {"params": policy[0].parameters(), "lr": 0.1},
            {"params": policy[2].parameters(), "lr": 0.2, "betas": (0.5, 0.6)},
        ]
    )
    path = save_checkpoint(
        tmp_path, step=0, policy=policy, optimizer=optimizer, state={}, generators={}, run=RUN
    )
    for group in optimizer.param_groups:
        group["lr"] = 9.0
    load_checkpoint(path).restore(policy, optimizer, {})
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    assert optimizer.param_groups[1]["betas"] == (0.5, 0.6)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]


def test_nothing_is_ever_unpickled(tmp_path, monkeypatch):
    trainer = Trainer("adam", seed=0)
    trainer.train(1)

    def refuse(*args, **kwargs):
        raise AssertionError("something was unpickled")

    for owner, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (torch, "save")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    trainer.restore(load_checkpoint(trainer.save(tmp_path, 1)))


def test_tied_weights(tmp_path):
    policy = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    policy[1].weight = policy[0].weight
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    expected = policy(torch.ones(1, 4))
    path = save_checkpoint(
        tmp_path, step=0, policy=policy, optimizer=optimizer, state={}, generators={}, run=RUN
    )
    nn.init.zeros_(policy[0].weight)
    load_checkpoint(path).restore(policy, optimizer, {})
    assert torch.equal(policy(torch.ones(1, 4)), expected)


class TestRefusal:
    @pytest.fixture
    def checkpoint(self, tmp_path) -> Checkpoint:
        trainer = Trainer("adam", seed=0)
        trainer.train(1)
        return load_checkpoint(trainer.save(tmp_path, 1))

    def refused(self, checkpoint, policy, optimizer, generators, *words):
        before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
        with pytest.raises(CheckpointError) as error:
            checkpoint.restore(policy, optimizer, generators)
        for word in (*words, checkpoint.path.name):
            assert word in str(error.value)
        assert all(torch.equal(before[name], t) for name, t in policy.state_dict().items())
        assert optimizer.state == {}

    def test_shape(self, checkpoint):
        policy = network(hidden=6)
        optimizer = torch.optim.Adam(policy.parameters())
        self.refused(checkpoint, policy, optimizer, {}, "0.weight", "[5, 3]", "[6, 3]")

    def test_names(self, checkpoint):
        policy = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1))
        optimizer = torch.optim.Adam(policy.parameters())
        self.refused(checkpoint, policy, optimizer, {}, "2.weight", "1.weight")

    def test_buffer_only_in_the_policy(self, checkpoint):
        policy = network()
        policy.register_buffer("extra", torch.zeros(1))
        optimizer = torch.optim.Adam(policy.parameters())
        self.refused(checkpoint, policy, optimizer, {}, "extra of the policy was not saved")

    def test_dtype(self, checkpoint):
        policy = network().double()
        optimizer = torch.optim.Adam(policy.parameters())
        self.refused(checkpoint, policy, optimizer, {}, "float32", "float64")

    def test_optimizer_class(self, checkpoint):
        policy = network()
        optimizer = torch.optim.RMSprop(policy.parameters())
        self.refused(checkpoint, policy, optimizer, {}, "Adam", "RMSprop")

    def test_optimizer_order(self, checkpoint):
        policy = network()
        optimizer = torch.optim.Adam(reversed(list(policy.parameters())))
        self.refused(checkpoint, policy, optimizer, {}, "2.bias", "0.weight")

    def test_optimizer_groups(self, checkpoint):
        policy = network()
        optimizer = torch.optim.Adam([{"params": layer.parameters()} for layer in policy[::2]])
        self.refused(checkpoint, policy, optimizer, {}, "[4]", "[2, 2]")

    def test_optimizer_state(self, checkpoint):
        """Adam asks for its step counts where it takes a state over, not where it is checked."""
        path = checkpoint.path
        tensors = load((path / "trainer.safetensors").read_bytes())
        without = {name: tensor for name, tensor in tensors.items() if not name.endswith(".step")}
        reseal(path, {"trainer.safetensors": save(without)})
        policy = network()
        optimizer = torch.optim.Adam(policy.parameters())
        damaged = load_checkpoint(path)
        self.refused(
            damaged, policy, optimizer, {}, "holds no state that Adam can take over: \"'step'"
        )

    @pytest.mark.parametrize("value", ["0.1", None, True, [0.1]])
    def test_optimizer_numbers(self, checkpoint, value):
        checkpoint.optimizer["groups"][0]["lr"] = value
        policy = network()
        optimizer = torch.optim.Adam(policy.parameters())
        self.refused(checkpoint, policy, optimizer, {}, "the optimizer's lr is")

    def test_generator(self, checkpoint):
        policy = network()
        optimizer = torch.optim.Adam(policy.parameters())
        self.refused(checkpoint, policy, optimizer, {"other": torch.Generator()}, "other")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_poisoned_weights_are_not_saved(tmp_path, value):
    trainer = Trainer("adam", seed=0)
    trainer.save(tmp_path, 1)
    with torch.no_grad():
        trainer.policy[0].weight[1, 2] = value
    with pytest.raises(CheckpointError, match=r"0\.weight holds NaN or infinity"):
        trainer.save(tmp_path, 2)
    assert steps_in(tmp_path) == [1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_poisoned_optimizer_is_not_saved(tmp_path, value):
    trainer = Trainer("adam", seed=0)
    trainer.train(1)
    trainer.save(tmp_path, 1)
    average = trainer.optimizer.state[trainer.policy[0].weight]["exp_avg_sq"]
    average[1, 2] = value
    with pytest.raises(CheckpointError, match=r"exp_avg_sq of 0\.weight holds NaN or infinity"):
        trainer.save(tmp_path, 2)
    assert steps_in(tmp_path) == [1]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_a_score_that_is_no_number_stops_no_save(tmp_path, score):
    checkpoint = load_checkpoint(Trainer("adam", seed=0).save(tmp_path, 1, score=score))
    assert (checkpoint.score, checkpoint.measure) == (None, None)


def test_what_cannot_be_read_again_is_not_saved(tmp_path):
    trainer, deep = Trainer("adam", seed=0), []
    for _ in range(100):
        deep = [deep]
    for state, message in (
        ({"x": float("nan")}, "JSON"),
        ({"x": "a" * 5_000_000}, "expected at most"),
        ({"x": deep}, "nested too deeply"),
    ):
        with pytest.raises((ValueError, CheckpointError), match=message):
            trainer.save(tmp_path, 1, state=state)
    for arguments in ({"score": 1.0, "measure": None}, {"score": None, "measure": "training"}):
        with pytest.raises(ValueError, match="measure: got"):
            trainer.save(tmp_path, 1, **arguments)
    for step in (-1, True, 2**63):
        with pytest.raises(ValueError, match="step: got"):
            trainer.save(tmp_path, step)
    assert not tmp_path.exists() or list(tmp_path.iterdir()) == []


def test_a_checkpoint_says_whose_it_is_and_what_its_score_measures(tmp_path):
    path = Trainer("adam", seed=0).save(
        tmp_path, 7, score=2.5, measure="evaluation", milestone=True
    )
    checkpoint = load_checkpoint(path)
    assert (checkpoint.run_id, checkpoint.config) == (RUN["id"], RUN["config"])
    assert (checkpoint.score, checkpoint.measure, checkpoint.milestone) == (2.5, "evaluation", True)


@pytest.mark.parametrize("step", [0, 10**12, 10**15 + 7, 2**63 - 1])
def test_steps_of_any_size_are_found(tmp_path, step):
    path = Trainer("adam", seed=0).save(tmp_path, step, score=1.0)
    assert path == checkpoint_path(tmp_path, step)
    assert checkpoint_steps(tmp_path) == [step]
    assert newest_good(tmp_path).step == step
    assert best(tmp_path) == path


def test_what_is_no_checkpoint_is_not_listed(tmp_path):
    names = ["step_1", "step_0000000000001", f"step_{'9' * 40}", "step_00000000000１", "other"]
    for name in names:
        (tmp_path / name).mkdir()
    assert checkpoint_steps(tmp_path) == []
    assert checkpoint_steps(tmp_path / "absent") == []


KILLER = textwrap.dedent(
    """
    import os, random, signal, struct, sys, time
    from pathlib import Path
    import torch
    from torch import nn
    from fwp_rl.runs.checkpoint import newest_good, save_checkpoint
    from fwp_rl.runs.files import read_folder, write_folder

    torch.set_num_threads(1)
    directory, kills = Path(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(0)

    def fill(module, value):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(value)

    policy = nn.Linear(64, 64)
    optimizer = torch.optim.Adam(policy.parameters())
    policy(torch.zeros(1, 64)).sum().backward()
    optimizer.step()
    parent = os.getpid()

    def save_for_ever(step, pipe):
        while os.getppid() == parent:
            step += 1
            fill(policy, step)
            for state in optimizer.state.values():
                state["exp_avg"].fill_(step)
            save_checkpoint(
                directory / "checkpoints", step=step, policy=policy, optimizer=optimizer,
                state={"step": step}, generators={}, run={"id": "x", "config": {}},
                score=float(step % 7), measure="training",
            )
            numbers = {"number": str(step).encode(), "again": str(step).encode()}
            write_folder(directory / "folder", numbers, kind="numbers", about={})
            os.write(pipe, struct.pack("q", step))

    completed = 0
    for _ in range(kills):
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(readable)
            save_for_ever(completed, writable)
        os.close(writable)
        os.read(readable, 8)  # the first save of this child
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        reported = os.read(readable, 1 << 20)
        if reported:
            completed = struct.unpack("q", reported[-8:])[0]
        os.close(readable)

        warnings = []
        checkpoint = newest_good(directory / "checkpoints", warn=warnings.append)
        assert not warnings, warnings
        assert checkpoint.step >= completed, (checkpoint.step, completed)
        assert checkpoint.state == {"step": checkpoint.step}
        assert all((t == checkpoint.step).all() for t in checkpoint.policy.values())
        average = [t for n, t in checkpoint.trainer.items() if n.endswith("exp_avg")]
        assert len(average) == 2 and all((t == checkpoint.step).all() for t in average)
        names = "number", "again"
        folder = read_folder(directory / "folder", kind="numbers", expected=names)
        number, again = map(folder.read, names)
        assert number == again and int(number) >= completed
        completed = checkpoint.step
    left = sorted(path.name for path in (directory / "checkpoints").iterdir())
    assert len([name for name in left if name.startswith(".tmp-")]) <= 2, left
    print("survived", kills, "saved", completed)
    """
)


def survive(tmp_path: Path, kills: int) -> None:
    result = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path), str(kills)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert f"survived {kills}" in result.stdout


def test_kill_while_saving(tmp_path):
    survive(tmp_path, 15)


@pytest.mark.slow
def test_kill_while_saving_often(tmp_path):
    survive(tmp_path, 300)


@pytest.mark.parametrize("limit", [0, 300, 1500])
def test_full_disk_leaves_the_older_checkpoint(tmp_path, limit):
    resource = pytest.importorskip("resource")  # Windows has none
    trainer = Trainer("adam", seed=0)
    trainer.train(1)
    trainer.save(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            trainer.save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert steps_in(tmp_path) == [1]
    assert newest_good(tmp_path).step == 1


def test_the_manifest_tells_what_there_is(tmp_path):
    path = Trainer("adam", seed=0).save(tmp_path, 123456, score=1.5)
    assert path.name == "step_000000123456"
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["about"] == {
        "step": 123456,
        "score": 1.5,
        "measure": "training",
        "milestone": False,
    }
    assert set(manifest["files"]) == {"policy.safetensors", "trainer.safetensors", "state.json"}


OLD = Path(__file__).parents[1] / "data/version_0.1.0/ppo/checkpoints/step_000000002018"


def test_a_checkpoint_of_0_1_0_says_what_it_knows(tmp_path):
    old = shutil.copytree(OLD, tmp_path / OLD.name)
    checkpoint = load_checkpoint(old)
    assert (checkpoint.step, checkpoint.score, checkpoint.measure) == (2018, 0.21, None)
    assert (checkpoint.run_id, checkpoint.config, checkpoint.milestone) == (None, None, False)
    assert best(tmp_path) == old
    moved = old.rename(tmp_path / "step_000000002019")
    with pytest.raises(CheckpointError, match="that of step 2,018"):
        load_checkpoint(moved)
