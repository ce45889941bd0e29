"""Which checkpoints count as good, which is the best, and which are kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from fwp_rl.runs.checkpoint import (
    CheckpointError,
    best,
    checkpoint_steps,
    load_checkpoint,
    newest_good,
)

from .cases import Trainer, flip_a_bit, replace_bytes, reseal, steps_in

GONE = object()

DAMAGES = [
    ("optimizer", None),
    ("optimizer.class", GONE),
    ("optimizer.class", 5),
    ("optimizer.groups", GONE),
    ("optimizer.groups", "x" * 100_000),
    ("optimizer.groups.0", []),
    ("optimizer.groups.0.parameters", "4"),
    ("optimizer.groups.0.parameters", True),
    ("optimizer.groups.0.parameters", 3),
    ("optimizer.groups.0.parameters", 10**30),
    ("optimizer.parameters", [1, 2, 3, 4]),
    ("optimizer.values", GONE),
    ("optimizer.values", {"0": {"x": [1]}}),
    ("optimizer.values", {"9": {"x": 1}}),
    ("optimizer.values", {"first": {"x": 1}}),
    ("state", "x"),
    ("run.id", ""),
    ("run.id", 5),
    ("run.config", [1]),
    ("run", 3),
]


def edit(data: Any, place: str, value: object) -> None:
    *parents, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    for part in parents:
        data = data[part]
    if value is GONE:
        del data[last]
    else:
        data[last] = value


class TestNewestGood:
    @pytest.fixture
    def directory(self, tmp_path) -> Path:
        trainer = Trainer("adam", seed=0)
        trainer.train(1)
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

    def test_without_scores_the_best_is_the_newest(self, tmp_path):
        trainer = Trainer("adam", seed=0)
        for step in (1, 2, 3):
            trainer.save(tmp_path, step)
        flip_a_bit(tmp_path / "step_000000000003" / "policy.safetensors")
        assert best(tmp_path).name == "step_000000000002"

    def test_no_best(self, tmp_path):
        with pytest.raises(CheckpointError, match="holds no good checkpoint"):
            best(tmp_path)

    def test_scores_of_one_measure_are_compared(self, tmp_path):
        trainer = Trainer("adam", seed=0)
        for step, score, measure in (
            (1, 50.0, "training"),
            (2, 3.0, "evaluation"),
            (3, 9.0, "evaluation"),
            (4, 60.0, "training"),
            (5, 7.0, "evaluation"),
            (6, None, None),
        ):
            trainer.save(tmp_path, step, score, measure=measure, keep=9)
        assert best(tmp_path).name == "step_000000000003"
        flip_a_bit(tmp_path / "step_000000000005" / "state.json")
        assert best(tmp_path).name == "step_000000000004", "the newest good one is of training"

    def test_milestones_stay(self, tmp_path):
        trainer = Trainer("adam", seed=0)
        for step in range(8):
            trainer.save(tmp_path, step, score=-float(step), milestone=step in (2, 4))
        assert checkpoint_steps(tmp_path) == [0, 2, 4, 6, 7]

    def test_a_folder_under_another_step_is_refused(self, directory):
        (directory / "step_000000000300").rename(directory / "step_000000000400")
        warnings = []
        assert newest_good(directory, warn=warnings.append).step == 200
        assert "step_000000000400: its manifest is that of step 300" in warnings[0]
        moved = directory.parent / "mine"  # a copy that says nothing of a step
        (directory / "step_000000000400").rename(moved)
        assert load_checkpoint(moved).step == 300

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            (("about", "step"), 400),
            (("about", "score"), 7.0),
            (("about", "measure"), "evaluation"),
            (("about", "milestone"), True),
            (("files", "state.json", "size"), 3),
            (("fwp_rl",), "9.9"),
            (("seal",), "0" * 64),
        ],
    )
    def test_the_manifest_is_sealed(self, directory, field, value):
        path = directory / "step_000000000300" / "manifest.json"
        manifest = json.loads(path.read_text())
        *parents, last = field
        place = manifest
        for name in parents:
            place = place[name]
        place[last] = value
        replace_bytes(path, json.dumps(manifest).encode())
        warnings = []
        assert newest_good(directory, warn=warnings.append).step == 200
        assert "manifest.json: is damaged" in warnings[0]

    @pytest.mark.parametrize(("place", "value"), DAMAGES)
    def test_a_sealed_one_that_cannot_be_restored_is_skipped(self, directory, place, value):
        folder = directory / "step_000000000300"
        state = json.loads((folder / "state.json").read_text())
        edit(state, place, value)
        reseal(folder, {"state.json": json.dumps(state).encode()})
        warnings = []
        assert newest_good(directory, warn=warnings.append).step == 200
        assert len(warnings) == 1
        assert "step_000000000300/state.json" in warnings[0]
        assert "\n" not in warnings[0]
        assert len(warnings[0]) < 600

    def test_one_without_a_tensor_is_skipped(self, directory):
        folder = directory / "step_000000000300"
        tensors = load((folder / "trainer.safetensors").read_bytes())
        for name, instead in (
            ("rng.torch", None),
            ("rng.torch", torch.zeros(7, dtype=torch.uint8)),
            ("rng.torch", torch.zeros(5056)),
            ("optimizer.0.exp_avg", torch.zeros(6, 3)),
            ("optimizer.7.exp_avg", torch.zeros(1)),
            ("anything", torch.zeros(1)),
        ):
            changed = {k: t for k, t in tensors.items() if k != name}
            changed |= {} if instead is None else {name: instead}
            reseal(folder, {"trainer.safetensors": save(changed)})
            warnings = []
            assert newest_good(directory, warn=warnings.append).step == 200, name
            assert "trainer.safetensors: " in warnings[0]

    def test_one_of_other_weights_is_skipped(self, directory):
        folder = directory / "step_000000000300"
        tensors = load((folder / "policy.safetensors").read_bytes())
        tensors["another"] = tensors.pop("0.weight")
        reseal(folder, {"policy.safetensors": save(tensors)})
        warnings = []
        assert newest_good(directory, warn=warnings.append).step == 200
        assert "its optimizer updates 0.weight, which it lacks" in warnings[0]

    def test_one_that_does_not_fit_is_skipped(self, directory):
        """The caller's own check counts as well."""
        other = Trainer("adam", seed=1)
        other.policy.register_buffer("more", torch.zeros(1))
        other.save(directory, 400)
        ours, warnings = Trainer("adam", seed=2), []

        def fits(checkpoint):
            checkpoint.check(ours.policy, ours.optimizer, ours.generators)

        assert newest_good(directory, warn=warnings.append, check=fits).step == 300
        assert "step_000000000400: the weights are of another network: more" in warnings[0]

    def test_deep_json_is_skipped(self, directory):
        for name in ("manifest.json", "state.json"):
            deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
            replace_bytes(directory / "step_000000000300" / name, deep)
            warnings = []
            assert newest_good(directory, warn=warnings.append).step == 200
            assert len(warnings) == 1
        reseal(directory / "step_000000000200", {"state.json": deep})
        with pytest.raises(CheckpointError, match="nested too deeply"):
            load_checkpoint(directory / "step_000000000200")

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


def test_a_save_reads_no_weights_that_this_process_knows(tmp_path, monkeypatch):
    trainer = Trainer("adam", seed=0)
    for step in (1, 2, 3):
        trainer.save(tmp_path / "run", step, score=float(step), milestone=step == 1)
    copied = shutil.copytree(tmp_path / "run", tmp_path / "copy")
    opened = []
    path_open = Path.open

    def noted(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.suffix == ".safetensors" and args == ("rb",):
            opened.append(path)
        return path_open(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", noted)
    trainer.save(tmp_path / "run", 4, score=4.0)
    assert opened == []
    trainer.save(copied, 4, score=4.0)  # files that another one may have made
    assert {path.parent.name for path in opened} == {"step_000000000003"}
    opened.clear()
    trainer.save(copied, 5)
    assert opened == [], "verified once"
    flip_a_bit(copied / "step_000000000004" / "policy.safetensors")
    trainer.save(copied, 6)
    assert checkpoint_steps(copied) == [1, 5, 6], "4, the best, has been changed since"


def what_it_says(path: Path) -> tuple[object, ...]:
    checkpoint = load_checkpoint(path)
    tensors = {name: t.numpy().tobytes() for name, t in checkpoint.policy.items()}
    return (
        *(checkpoint.step, checkpoint.score, checkpoint.measure, checkpoint.milestone),
        *(checkpoint.run_id, checkpoint.config, checkpoint.state, tensors),
    )


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_every_single_bit_of_a_manifest_is_guarded(tmp_path, stride):
    path = Trainer("adam", seed=0).save(tmp_path, 5402, score=-12.5)
    manifest = path / "manifest.json"
    data, intact = manifest.read_bytes(), what_it_says(path)
    found = 0
    positions = range(0, 8 * len(data), stride)
    for position in positions:
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        manifest.write_bytes(flipped)
        try:
            said = what_it_says(path)
        except CheckpointError:
            found += 1
        else:
            assert said == intact, bytes(flipped)
    assert found > 0.97 * len(positions)
    replace_bytes(manifest, data)
    assert what_it_says(path) == intact


def test_what_a_crash_kept_of_a_replaced_checkpoint_goes_with_the_next(tmp_path):
    trainer = Trainer("adam", 0)
    for step in (1, 2):
        trainer.save(tmp_path, step)
    shutil.copytree(tmp_path / "step_000000000002", tmp_path / "step_000000000002.old")
    trainer.save(tmp_path, 3)
    assert steps_in(tmp_path) == [2, 3]
