import json
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fwp_rl.runs.checkpoint import (
    Checkpoint,
    CheckpointError,
    best,
    load_checkpoint,
    newest_good,
    save_checkpoint,
)

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, eps=1e-5),
    "fused_adam": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.8, 0.9), amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, alpha=0.99, eps=0.01, momentum=0.5),
}


def network(seed: int = 0, hidden: int = 5) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 1))


class Trainer:
    """Draws from every kind of random stream that a run has."""

    def __init__(self, optimizer: str, seed: int) -> None:
        self.policy = network(seed)
        self.optimizer = OPTIMIZERS[optimizer](self.policy.parameters())
        self.generators = {"action": torch.Generator().manual_seed(seed)}
        self.numpy = np.random.default_rng(seed)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            x = torch.randn(8, 3) + torch.randn(8, 3, generator=self.generators["action"])
            target = torch.from_numpy(self.numpy.normal(size=(8, 1))).float()
            self.optimizer.zero_grad()
            ((self.policy(x) - target) ** 2).mean().backward()
            self.optimizer.step()

    def save(self, directory: Path, step: int, score: float | None = None) -> Path:
        return save_checkpoint(
            directory,
            step=step,
            policy=self.policy,
            optimizer=self.optimizer,
            state={"numpy": self.numpy.bit_generator.state, "count": np.int64(7)},
            generators=self.generators,
            score=score,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        checkpoint.restore(self.policy, self.optimizer, self.generators)
        self.numpy.bit_generator.state = checkpoint.state["numpy"]


def steps_in(directory: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in directory.iterdir())


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


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
        tmp_path, step=0, policy=policy, optimizer=optimizer, state={}, generators={}, score=None
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
        tmp_path, step=0, policy=policy, optimizer=optimizer, state={}, generators={}, score=None
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


def test_poisoned_score_and_state_are_refused(tmp_path):
    trainer = Trainer("adam", seed=0)
    with pytest.raises(ValueError, match="score: got nan"):
        trainer.save(tmp_path, 1, score=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(
            tmp_path,
            step=1,
            policy=trainer.policy,
            optimizer=trainer.optimizer,
            state={"x": float("nan")},
            generators={},
            score=None,
        )
    assert not tmp_path.exists() or list(tmp_path.iterdir()) == []


class TestNewestGood:
    @pytest.fixture
    def directory(self, tmp_path) -> Path:
        trainer = Trainer("adam", seed=0)
        for step in (100, 200, 300):
            trainer.save(tmp_path / "checkpoints", step, score=300.0 - step)
        return tmp_path / "checkpoints"

    def test_none_at_all(self, tmp_path):
        assert newest_good(tmp_path / "absent") is None
        assert newest_good(tmp_path) is None

    def test_newest(self, directory):
        assert newest_good(directory).step == 300

    @pytest.mark.parametrize("name", ["policy.safetensors", "trainer.safetensors", "state.json"])
    def test_falls_back_with_a_warning(self, directory, name):
        flip_a_bit(directory / "step_000000000300" / name)
        with pytest.warns(UserWarning, match=f"step_000000000300/{name}"):
            checkpoint = newest_good(directory)
        assert checkpoint.step == 200

    def test_a_half_deleted_one_is_skipped(self, directory):
        (directory / "step_000000000300" / "manifest.json").unlink()
        warnings = []
        assert newest_good(directory, warn=warnings.append).step == 200
        assert len(warnings) == 1

    def test_never_a_silent_fresh_start(self, directory):
        for folder in directory.iterdir():
            flip_a_bit(folder / "state.json")
        warnings = []
        with pytest.raises(CheckpointError, match="none of the 3 checkpoints") as error:
            newest_good(directory, warn=warnings.append)
        assert len(warnings) == 3
        assert all(f"step_000000000{n}00" in str(error.value) for n in (1, 2, 3))

    def test_best(self, directory):
        assert best(directory).name == "step_000000000100"
        flip_a_bit(directory / "step_000000000100" / "policy.safetensors")
        assert best(directory).name == "step_000000000200"

    def test_no_best(self, tmp_path):
        Trainer("adam", seed=0).save(tmp_path, 1)
        with pytest.raises(CheckpointError, match="no good checkpoint with a score"):
            best(tmp_path)

    def test_a_damaged_one_does_not_count_among_the_kept(self, directory):
        flip_a_bit(directory / "step_000000000300" / "policy.safetensors")
        trainer = Trainer("adam", seed=0)
        trainer.save(directory, 250)
        assert steps_in(directory) == [100, 200, 250, 300]
        trainer.save(directory, 350)
        assert steps_in(directory) == [100, 250, 350]

    def test_saving_a_damaged_step_again_mends_it(self, directory):
        flip_a_bit(directory / "step_000000000300" / "policy.safetensors")
        Trainer("adam", seed=0).save(directory, 300)
        assert newest_good(directory).step == 300
        assert steps_in(directory) == [100, 200, 300]


@settings(max_examples=20, deadline=None)
@given(scores=st.lists(st.none() | st.integers(-2, 2).map(float), min_size=1, max_size=6))
def test_the_last_two_and_the_best_are_kept(tmp_path_factory, scores):
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    trainer = Trainer("rmsprop", seed=0)
    for step, score in enumerate(scores):
        trainer.save(directory, step, score)
        seen = [(s, -i) for i, s in enumerate(scores[: step + 1]) if s is not None]
        expected = {step, max(step - 1, 0)} | ({-max(seen)[1]} if seen else set())
        assert steps_in(directory) == sorted(expected)
        if seen:
            assert load_checkpoint(best(directory)).score == max(seen)[0]


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
                state={"step": step}, generators={}, score=float(step % 7),
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
        files = read_folder(directory / "folder", kind="numbers", expected=()).files
        assert files["number"] == files["again"] and int(files["number"]) >= completed
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


def test_the_manifest_tells_step_and_score(tmp_path):
    path = Trainer("adam", seed=0).save(tmp_path, 123456, score=1.5)
    assert path.name == "step_000000123456"
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["about"] == {"step": 123456, "score": 1.5}
    assert set(manifest["files"]) == {"policy.safetensors", "trainer.safetensors", "state.json"}
