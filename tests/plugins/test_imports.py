"""``--import MODULE``: the user's own cores on every command."""

from pathlib import Path

import gymnasium
import pytest
import yaml

from fwp_rl.cli import main
from fwp_rl.imports import take_imports

from .conftest import Site

LEAKY = """
from dataclasses import dataclass
from fwp_rl.cores import CORES
from fwp_rl.cores.rnn import GRUConfig


@CORES.register("leaky")
@dataclass(frozen=True, kw_only=True)
class LeakyConfig(GRUConfig):
    \"\"\"Made for a test.\"\"\"
"""
TAP = """
from dataclasses import dataclass
from fwp_rl.envs import ENVS
from fwp_rl.envs.toy import RecallConfig


@ENVS.register("tap")
@dataclass(frozen=True, kw_only=True)
class TapConfig(RecallConfig):
    \"\"\"Made for a test.\"\"\"
"""
TINY = [
    "--total-steps=300", "--num-envs=8", "--minibatches=2", "--rollout-length=16", "--plain",
    "--evaluation-games=4", "--core.hidden-size=8",
]  # fmt: skip


def run(*args: str) -> int:
    """Exit code of ``fwp-rl ARGS``."""
    try:
        main(list(args))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


@pytest.fixture
def leaky(site: Site) -> Site:
    site.write({"leaky.py": LEAKY})
    return site


@pytest.mark.slow
def test_every_command_knows_it_and_none_without(
    leaky: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "runs/tiny"
    assert run("train", "recall", "core:leaky", *TINY, f"--run-dir={path}") == 2
    assert not Path(path).exists()
    assert run("train", "recall", "core:leaky", *TINY, f"--run-dir={path}", "--import=leaky") == 0
    said = capsys.readouterr()
    assert "unknown core 'leaky'" in said.err
    assert f"{path} --import leaky" in said.err, "what may be done next"
    for command in (
        ["train", "--resume", path, "--total-steps=500"],
        ["evaluate", path, "--games=4"],
        ["watch", path, "--still", "--output=sheet.png"],
        ["report", path, "--output=page"],
    ):
        leaky.forget()
        assert run(*command) == 2, command
        said = capsys.readouterr()
        assert "--import its module" in " ".join((said.out + said.err).split()), command
        assert run(*command, "--import", "leaky") == 0, command
        assert "left out" not in capsys.readouterr().err
    leaky.forget()
    assert run("--import", "leaky", "list", "cores") == 0
    assert "leaky" in capsys.readouterr().out


@pytest.mark.slow
def test_the_workers_of_an_ablation_know_it_and_what_is_installed(
    leaky: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaky.install("tap-env", {"tap.py": TAP}, {"fwp_rl.envs": {"tap": "tap:TapConfig"}})
    monkeypatch.setenv("PYTHONPATH", str(leaky.path))
    overrides = {"env": "tap", "total_steps": 200, "evaluation_games": 2, "num_envs": 8}
    sizes = {"rollout_length": 16, "minibatches": 2}
    grid = {"preset": "recall", "overrides": overrides | sizes, "axes": {"core": ["leaky"]}}
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    assert run("ablate", "grid.yaml", "--plain", "--output=out", "--import=leaky") == 0
    config = yaml.safe_load(Path("out/leaky/config.yaml").read_text())
    assert (config["core"]["name"], config["env"]["name"]) == ("leaky", "tap")
    assert list(Path("out/leaky/evaluations").glob("*.json"))


@pytest.mark.parametrize(
    ("files", "flags", "message"),
    [
        ({}, ["--import"], "--import: expected the name of a module"),
        ({}, ["--import", "--help"], "--import: expected the name of a module"),
        ({}, ["--import", "./leaky.py"], "got './leaky.py', expected the name of a module"),
        ({}, ["--import=no_such"], "no_such cannot be imported: ModuleNotFoundError"),
        ({"bad.py": "x = 1\ny = 1 / 0\n"}, ["--import=bad"], "division by zero (*bad.py, line 2)"),
        ({"bad.py": "x ="}, ["--import=bad"], "bad cannot be imported: SyntaxError"),
        ({"bad.py": "raise SystemExit(0)"}, ["--import=bad"], "SystemExit: 0"),
        ({"bad.py": LEAKY.replace('"leaky"', '"lstm"')}, ["--import=bad"], "named 'lstm'"),
    ],
)
def test_what_cannot_be_imported_is_said_in_a_line(
    site: Site,
    files: dict[str, str],
    flags: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    site.write(files)
    assert run("list", "cores", *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in message.split("*"):
        assert part in line


def test_a_module_of_the_current_folder(
    site: Site, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "here.py").write_text(LEAKY)
    site.path = tmp_path  # what is imported from here is forgotten too
    assert run("list", "cores", "--import", "here") == 0
    assert "leaky" in capsys.readouterr().out


def test_the_flag_may_stand_anywhere_and_more_than_once() -> None:
    args = ["--import", "a.b", "train", "recall", "--import=c", "--seed=2"]
    assert take_imports(args) == (["a.b", "c"], ["train", "recall", "--seed=2"])


GYM = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Mine(CartPoleEnv):
    pass


gymnasium.register("Mine-v0", "of_gym:Mine", max_episode_steps=20)
"""


@pytest.mark.slow
def test_an_environment_of_gymnasium(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.write({"of_gym.py": GYM})
    env = ["env:gymnasium", "--env.id=Mine-v0", "core:gru"]
    assert run("train", "recall", *env, *TINY, "--run-dir=run", "--no-video") == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "Your own: --import the module that registers it" in said
    try:
        training = ["train", "recall", *env, *TINY, "--run-dir=run", "--no-video"]
        assert run(*training, "--import=of_gym") == 0
        del gymnasium.registry["Mine-v0"]
        assert run("evaluate", "run", "--games=2") == 2
        assert "expected one that Gymnasium has" in capsys.readouterr().err
        site.forget()
        assert run("evaluate", "run", "--games=2", "--import=of_gym") == 0
    finally:
        gymnasium.registry.pop("Mine-v0", None)
