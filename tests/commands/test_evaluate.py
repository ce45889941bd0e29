"""``fwp-rl evaluate`` and ``watch``: which checkpoint, and what becomes of the result."""

import json
import resource
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from fwp_rl import evaluation
from fwp_rl.cli import main
from fwp_rl.commands.shared import which_checkpoint
from fwp_rl.config import ConfigError
from fwp_rl.envs import Game
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.evaluation import evaluate, evaluate_all, summarize, write_result
from fwp_rl.machine import facts
from fwp_rl.reports import plots
from fwp_rl.runs.checkpoint import checkpoint_path, checkpoint_steps
from fwp_rl.runs.policy import load_saved, save_policy


def run(*args: object) -> int:
    """Exit code of ``fwp-rl ARGS``."""
    try:
        main([str(arg) for arg in args])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has saved at each of its updates."""
    path = tmp_path_factory.mktemp("runs") / "many"
    flags = ["--total-steps=600", "--num-envs=8", "--minibatches=2", "--rollout-length=16"]
    rest = ["--checkpoint-minutes=1e-9", "--evaluation-games=0", "--plain"]
    assert run("train", "recall", *flags, *rest, f"--run-dir={path}") == 0
    return path


@pytest.fixture
def many(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    shutil.copytree(trained, tmp_path / "many")
    return tmp_path / "many"


def steps(path: Path) -> list[int]:
    return checkpoint_steps(path / "checkpoints")


def results(path: Path) -> list[dict[str, Any]]:
    files = sorted((path / "evaluations").glob("*.json"))
    return sorted((json.loads(file.read_text()) for file in files), key=lambda r: r["step"])


def test_every_kept_checkpoint_is_evaluated_in_order_with_a_table_and_a_curve(
    many: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(steps(many)) >= 2
    assert run("evaluate", many, "--checkpoint=all", "--games=16") == 0
    said = capsys.readouterr().out
    found = results(many)
    assert [result["step"] for result in found] == steps(many)
    rows = [f"{step:,}" for step in steps(many)]
    assert [said.index(row) for row in rows] == sorted(said.index(row) for row in rows)
    assert "95 % interval" in said
    assert "success" in said
    assert {result["protocol"]["games"] for result in found} == {16}
    assert all(result["protocol"]["checkpoint"].startswith("step_") for result in found)
    if hasattr(plots, "evaluation_curve"):
        assert (many / "evaluations" / "curve.png").stat().st_size > 5_000
    # the last is what `evaluate` plays without a word
    alone = evaluate(many, games=16)
    assert (alone["step"], alone["returns"]) == (found[-1]["step"], found[-1]["returns"])


def test_one_checkpoint_is_named_by_its_step(
    many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, output = steps(many)[0], tmp_path / "result.json"
    wanted = f"--checkpoint={first:_}"
    assert run("evaluate", many, wanted, "--games=4", f"--output={output}") == 0
    result = json.loads(output.read_text())
    assert result["step"] == first
    assert result["protocol"]["checkpoint"] == f"step_{first:012d}"
    capsys.readouterr()
    assert run("watch", many, wanted, "--still") == 0
    assert f"step_{first:012d}-seed0.png" in capsys.readouterr().out
    for command in ("evaluate", "watch"):
        assert run(command, many, f"--checkpoint={first + 1}") == 1
        (line,) = capsys.readouterr().err.splitlines()
        kept = ", ".join(f"{step:,}" for step in steps(many))
        assert line.endswith(f"has no checkpoint of step {first + 1:,}; kept are {kept}")


@pytest.mark.parametrize("given", ["1000000", "1_000_000", "1,000,000", "1e6"])
def test_a_step_may_be_spelled_as_it_is_printed(given: str) -> None:
    assert which_checkpoint(given) == 1_000_000


@pytest.mark.parametrize("given", ["lst", "", "1e", "-5", "1.5"])
def test_what_is_no_checkpoint_is_refused(given: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected last, best, or a number of environment steps"):
        which_checkpoint(given)


def test_a_policy_without_a_run_has_no_other_checkpoints(trained: Path, tmp_path: Path) -> None:
    policy = shutil.copytree(trained / "policy", tmp_path / "alone")
    for ask in (
        lambda: evaluate(policy, checkpoint="best"),
        lambda: evaluate(policy, checkpoint=5),
        lambda: evaluate_all(policy),
    ):
        with pytest.raises(ConfigError, match="is not in a run directory: only runs have"):
            ask()


def test_a_damaged_checkpoint_costs_itself_alone(
    many: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = steps(many)
    damaged = checkpoint_path(many / "checkpoints", kept[0]) / "policy.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert run("evaluate", many, "--checkpoint=all", "--games=4") == 0
    assert f"left out: {damaged}" in capsys.readouterr().err
    assert [result["step"] for result in results(many)] == kept[1:]
    for step in kept[1:]:
        (checkpoint_path(many / "checkpoints", step) / "manifest.json").unlink()
    assert run("evaluate", many, "--checkpoint=all") == 1
    assert "has no checkpoint that can be used" in capsys.readouterr().err


def test_a_run_that_cannot_be_written_is_told_first_and_shown_all_the_same(
    many: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (many / "evaluations").touch()  # even root cannot write into this folder
    for checkpoint in ("last", "all"):
        assert run("evaluate", many, "--games=4", f"--checkpoint={checkpoint}") == 1
        said = capsys.readouterr()
        assert "mean return" in said.out
        first, *_ = said.err.splitlines()
        assert f"{many / 'evaluations'}: cannot be written (Not a directory)" in first
        assert "--output names another file" in first


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_played(
    many: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("an environment was built")

    monkeypatch.setattr(RecallConfig, "make", fail)
    (tmp_path / "file").touch()
    for output, reason in (
        (tmp_path / "file" / "result.json", "Not a directory"),
        (tmp_path, "Is a directory"),
    ):
        assert run("evaluate", many, f"--output={output}") == 1
        assert capsys.readouterr().err == f"fwp-rl: {output}: {reason}\n"
    assert run("evaluate", many, "--checkpoint=all", f"--output={tmp_path / 'file'}") == 1
    assert "Not a directory" in capsys.readouterr().err
    assert run("watch", many, "--still", f"--output={tmp_path / 'file' / 'a.png'}") == 1
    assert capsys.readouterr().err == f"fwp-rl: {tmp_path / 'file' / 'a.png'}: Not a directory\n"


def test_a_disk_without_room_costs_the_file_and_not_the_table(
    many: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # bytes of any file
    try:
        code = run("evaluate", many, "--games=4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr()
    assert code == 1
    assert "mean return" in said.out
    (line,) = said.err.splitlines()
    assert "the result was not written: File too large; --output names another file" in line
    assert not list((many / "evaluations").iterdir())


def test_returns_that_are_not_finite_are_null_in_the_file(trained: Path, tmp_path: Path) -> None:
    returns = (1.0, float("inf"), float("nan"))
    games = [Game(column=0, episode_return=r, length=3, truncated=False) for r in returns]
    summary = summarize(games, "recall", RecallConfig())
    result = {"summary": summary, "returns": list(returns)}
    written = write_result(load_saved(trained), result, "", tmp_path / "result.json", pytest.fail)
    assert written["returns"][1] == float("inf")
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["returns"] == [1.0, None, None]
    assert stored["summary"]["mean"] is None


def test_a_result_says_who_made_it(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["fwp-rl", "evaluate", "a run"])
    saved = load_saved(trained)
    known = {"id": "abc", "command": "fwp-rl train recall", "commit": "123", "dirty": False}
    for run, metadata in ((known, {"run": known}), (None, {})):
        save_policy(tmp_path / "policy", saved.policy, env=saved.env, metadata=metadata)
        result = evaluate(tmp_path / "policy", games=1, output=tmp_path / "result.json")
        stored = json.loads((tmp_path / "result.json").read_text())
        assert stored["run"] == result["run"] == run
    assert shlex.split(stored["command"]) == sys.argv
    assert {name: stored[name] for name in facts()} == facts()
    assert {"commit", "dirty", "versions", "machine"} <= facts().keys()
    assert {"threads", "numba_threads"} <= stored["machine"].keys()


def test_single_lives_are_played_of_one_checkpoint(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", trained, "--protocol=paper", "--checkpoint=all") == 2
    assert "for --protocol paper name a step" in capsys.readouterr().err


def test_actions_are_chosen_as_asked(many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", many, "--games=4") == 0
    assert run("evaluate", many, "--games=4", "--actions=epsilon_greedy") == 0
    assert run("watch", many, "--actions=greedy", "--still") == 0
    found = {result["protocol"]["actions"] for result in results(many)}
    assert found == {"sampled", "epsilon_greedy 0.05"}
    capsys.readouterr()
    for command in ("evaluate", "watch"):
        assert run(command, many, "--actions=gredy") == 2
        assert "unknown action rule 'gredy'. Did you mean 'greedy'?" in capsys.readouterr().err
    assert run("evaluate", many, "--protocol=paper", "--actions=sampled") == 2
    assert "plays greedily; leave --actions out" in capsys.readouterr().err


def test_the_package_offers_what_it_names() -> None:
    assert all(hasattr(evaluation, name) for name in evaluation.__all__)


def test_json_is_all_that_standard_output_has(
    many: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", many, "--games=4", "--json") == 0
    said = capsys.readouterr()
    (kept,) = (many / "evaluations").glob("*.json")
    assert json.loads(said.out) == json.loads(kept.read_text())
    assert "Evaluating 4 games" in said.err
    assert f"Next: fwp-rl watch {many}" in said.err
    assert run("evaluate", many, "--games=4", "--checkpoint=all", "--json") == 0
    each = json.loads(capsys.readouterr().out)
    assert [result["step"] for result in each] == steps(many)


def test_what_is_watched_is_told_and_nothing_is_overwritten(
    many: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films = []
    for _ in range(3):
        assert run("watch", many, "--max-seconds=2") == 0
        said = capsys.readouterr()
        (film,) = map(Path, said.out.split())
        films.append((film, film.read_bytes()))
        for part in ("Playing recall with the last checkpoint", "Drawing the memory", "wrote a fi"):
            assert part in said.err
        assert f"Next: fwp-rl evaluate {many}" in said.err
    assert len({film for film, _ in films}) == 3
    assert all(film.read_bytes() == content for film, content in films)
    assert sorted(film.name for film, _ in films) == [film.name for film, _ in films], "newest last"
    assert run("watch", many, f"--output={films[0][0]}") == 2
    assert "is there already; name another file, or remove it" in capsys.readouterr().err
    assert films[0][0].read_bytes() == films[0][1]
