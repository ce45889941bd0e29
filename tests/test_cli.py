"""The command line as a user meets it."""

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fwp_rl
from fwp_rl.cli import main
from fwp_rl.cores import CORES
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.runs.metrics import read_metrics

TINY = [
    "--total-steps=600", "--num-envs=8", "--minibatches=2", "--rollout-length=16", "--plain",
    "--evaluation-games=8",
]  # fmt: skip


def run(*args: str) -> int:
    """Exit code of ``fwp-rl ARGS``."""
    try:
        main(list(args))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "tiny"
    assert run("train", "recall", *TINY, f"--run-dir={path}") == 0
    return path


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian", "quickstart"], "Did you mean 'train'?"),
        (["train"], "the first argument is a preset"),
        (["train", "quikstart"], "Did you mean 'quickstart'?"),
        (["train", "recall", "core:lstmm"], "Did you mean 'lstm'?"),
        (["train", "recall", "--learning-rat=1"], "Did you mean '--learning-rate'?"),
        (["train", "recall", "--learning-rate=nan"], "learning_rate: got nan, expected"),
        (["train", "recall", "--total-steps=-5"], "total_steps: got -5, expected 1 or more"),
        (["train", "quickstart", "--env.game=Brekout"], "Did you mean 'Breakout'?"),
        (["train", "quickstart", "--env.protocol=macado"], "invalid choice 'macado'"),
        (["train", "quickstart", "--env.flicker=2"], "flicker: got 2"),
        (["train", "minigrid_memory", "--env.task=MemoryS8"], "Did you mean 'MemoryS"),
        (["train", "recall", "env:gymnasium", "--env.id=CartPol-v1"], "Did you mean: `CartPole`"),
        (["train", "quickstart", "env:minigrid"], "use the encoder mlp"),
        (["train", "--resume"], "--resume needs the run directory"),
        (["train", "--resume", "--seed=3"], "--resume needs the run directory"),
        (["train", "recall", "--resume", "x"], "give a preset or --resume, not both"),
        (["watch", ".", "--output=game.avi"], "expected a name that ends in .mp4 or .gif"),
        (["list", "coers"], "Did you mean 'cores'?"),
        (["list"], "usage: fwp-rl list"),
        (["bench", "trainin"], "Did you mean 'training'?"),
        (["evaluate", "nowhere", "--games=0"], "--games: got 0, expected 1 or more"),
    ],
)
def test_a_mistake_exits_with_2_before_any_environment_is_built(
    args: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("an environment was built")

    monkeypatch.setattr("fwp_rl.envs.pool.Pool.__init__", fail)
    monkeypatch.setattr(RecallConfig, "make", fail)
    monkeypatch.chdir(tmp_path)
    assert run(*args) == 2
    said = capsys.readouterr()
    assert message in " ".join((said.out + said.err).replace("│", " ").split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "what", ["cores", "encoders", "envs", "games", "presets", "agents", "ablations"]
)
def test_lists(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", what) == 0
    known = {
        "cores": ["feedforward", "lstm", "gru", "linear_transformer", "delta_net"],
        "encoders": ["nature_cnn", "impala_resnet", "mlp"],
        "envs": ["atari", "minigrid", "classic", "procgen", "gymnasium", "recall"],
        "games": ["Breakout", "Zaxxon", "7,127.7", "57 with the scores"],
        "presets": ["quickstart", "ppo_atari", "recall", "minigrid_memory"],
        "agents": ["ppo"],
        "ablations": ["cores_quick", "cores_atari57", "855"],
    }
    said = capsys.readouterr().out
    for name in known[what]:
        assert name in said


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("--help", 0, "fwp-rl train quickstart"),
        ("--version", 0, "fwp-rl"),
        ("trian", 2, "Did you mean 'train'?"),
        ("train --help", 0, "minigrid_memory_s11"),
        ("train quikstart", 2, "Did you mean 'quickstart'?"),
        ("train nothing.yaml", 2, "nothing.yaml: cannot be read"),
        ("train --resume runs/nothing", 1, "runs/nothing"),
        ("evaluate --help", 0, "--protocol"),
        ("evaluate runs/nothing --game 3", 2, "Did you mean '--games'?"),
        ("evaluate runs/nothing", 1, "runs/nothing: there is no such folder"),
        ("watch --help", 0, "--still"),
        ("watch runs/nothing", 1, "expected a policy folder, a run directory"),
        ("report --help", 0, "--title"),
        ("report", 2, "report needs run directories"),
        ("report runs/nothing", 2, "runs/nothing: there is no such run directory"),
        ("report fwp_rl", 2, "no run to report on"),
        ("ablate --help", 0, "--dry-run"),
        ("ablate nothing.yaml", 2, "nothing.yaml: cannot be read"),
        ("ablate cores_quik", 2, "Did you mean 'cores_quick'?"),
        ("ablate cores_quick --jobs=0", 2, "--jobs: got 0"),
        ("doctor --help", 0, "exit code 1"),
        ("bench --help", 0, "kernels"),
        ("bench trainin", 2, "Did you mean 'training'?"),
        ("bench training --help", 0, "--rounds"),
        ("bench training --rounds=0", 2, "expected 1 or more"),
        ("bench kernels --help", 0, "--quick"),
        ("list --help", 0, "ablations"),
        ("list coers", 2, "Did you mean 'cores'?"),
        ("--import json list envs", 0, "gymnasium"),
        ("--import no_such list envs", 2, "no_such cannot be imported"),
        ("list envs", 0, "gymnasium"),
        ("list presets --json", 0, "MemoryS11"),
        ("list games", 0, "7,127.7"),
        ("list presets", 0, "minigrid_memory_s11"),
        ("list ablations", 0, "cores_atari57"),
    ],
)
def test_help_typos_and_lists_answer_without_torch(command: str, code: int, said: str) -> None:
    """And without envpool, gymnasium and pydantic."""
    program = (
        "import atexit, sys; from fwp_rl.cli import main\n"
        "heavy = ('torch', 'torch._dynamo', 'numba', 'envpool', 'gymnasium', 'pydantic')\n"
        "atexit.register(lambda: print('imported:', *(m for m in heavy if m in sys.modules)))\n"
        "main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *command.split()], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert said in " ".join((done.stdout + done.stderr).split())
    assert done.stdout.splitlines()[-1] == "imported:"


def test_train_evaluate_and_the_best_checkpoint(
    finished_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "result.json"
    assert run("evaluate", str(finished_run), "--games=20", f"--output={output}") == 0
    assert "mean return" in capsys.readouterr().out
    result = json.loads(output.read_text())
    assert result["protocol"]["games"] >= 20
    assert result["protocol"]["actions"] == "sampled"
    assert result["environment"]["num_cues"] == 4
    assert result["network"]["core"]["name"] == "delta_net"
    assert result["summary"]["human_normalized"] is None, "no human has played this"
    success = result["summary"]["success"]
    assert success["rate"] == result["summary"]["mean"], "in this task the return is the success"
    low, high = success["interval"]
    assert 0 <= low < success["rate"] < high <= 1
    best = ["evaluate", str(finished_run), "--checkpoint=best", "--greedy", "--games=4"]
    assert run(*best) == 0
    newest = max((finished_run / "evaluations").glob("best-greedy-*.json"))
    protocol = json.loads(newest.read_text())["protocol"]
    assert (protocol["checkpoint"], protocol["actions"]) == ("best", "greedy")
    first = min((finished_run / "checkpoints").iterdir())
    assert run("evaluate", str(first), "--games=4", f"--output={output}") == 0
    assert json.loads(output.read_text())["protocol"]["checkpoint"] == first.name


def test_one_seed_gives_one_evaluation(finished_run: Path, tmp_path: Path) -> None:
    results = []
    for number, seed in enumerate(["3", "3", "4"]):
        output = tmp_path / f"{number}.json"
        assert run("evaluate", str(finished_run), f"--seed={seed}", f"--output={output}") == 0
        results.append(json.loads(output.read_text())["lengths"])
    assert results[0] == results[1] != results[2]


def test_what_cannot_be_used_is_named(
    finished_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("evaluate", str(tmp_path / "nowhere")) == 1
    assert "expected a policy folder, a run directory" in capsys.readouterr().err
    assert run("watch", str(finished_run), "--no-memory") == 2
    assert "recall has no screen to film" in capsys.readouterr().err
    assert run("train", "recall", *TINY, f"--run-dir={finished_run}") == 1
    assert "holds a run already; continue it with --resume" in capsys.readouterr().err
    assert run("train", "--resume", str(tmp_path)) == 1
    assert "not a run directory" in capsys.readouterr().err


def test_what_the_system_refuses_is_said_in_a_line(
    finished_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert run("report", str(finished_run), f"--output={tmp_path / 'file'}") == 2, "a wrong call"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fwp-rl: {tmp_path / 'file'}")
    assert "Not a directory" in line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no full device")
def test_output_that_has_no_room_is_no_traceback() -> None:
    with open("/dev/full", "w") as full:
        listing = [sys.executable, "-m", "fwp_rl", "list", "games"]
        done = subprocess.run(listing, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == "fwp-rl: No space left on device"
    assert "Traceback" not in done.stderr


def test_a_game_without_a_screen_is_filmed_by_its_memory(
    finished_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sheet, film = tmp_path / "sheet.png", tmp_path / "film.gif"
    assert run("watch", str(finished_run), "--still", "--games=2", f"--output={sheet}") == 0
    assert run("watch", str(finished_run), f"--output={film}") == 0
    assert sheet.stat().st_size > 20_000
    assert film.stat().st_size > 5_000
    assert run("watch", str(finished_run), "--still", f"--output={film}") == 2
    assert "expected a name that ends in .png" in capsys.readouterr().err
    assert run("watch", str(finished_run), "--still", "--no-memory") == 2
    assert "leave --no-memory out" in capsys.readouterr().err


def test_resume_extends_a_finished_run(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_metrics(finished_run / "metrics.jsonl")
    assert run("train", "--resume", str(finished_run), "--total-steps=1200") == 0
    said = capsys.readouterr().out
    assert "Resumed at step" in said
    assert "total_steps is now 1,200 (was 600)" in said
    rows = read_metrics(finished_run / "metrics.jsonl")
    assert rows[: len(before)] == before
    assert rows[-1]["step"] >= 1200


def start(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fwp_rl", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for_checkpoints(path: Path, count: int) -> None:
    while len(list((path / "checkpoints").glob("step_*"))) < count:
        time.sleep(0.05)


LONG = ["--total-steps=1_000_000", "--plain", "--checkpoint-minutes=0.005", "--evaluation-games=0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_stopped_run_resumes(stop: signal.Signals, code: int, tmp_path: Path) -> None:
    path = tmp_path / "run"
    process = start("train", "recall", *LONG, f"--run-dir={path}")
    wait_for_checkpoints(path, 3)
    process.send_signal(stop)
    said, _ = process.communicate()
    assert process.returncode == code, said
    if stop != signal.SIGKILL:
        assert "Go on with: fwp-rl train --resume" in said
        assert json.loads((path / "status.json").read_text())["state"] == "stopped"
    saved = max(int(p.name.removeprefix("step_")) for p in (path / "checkpoints").glob("step_*"))
    more = start("train", "--resume", str(path), f"--total-steps={saved + 3000}")
    said, _ = more.communicate()
    assert more.returncode == 0, said
    assert f"Resumed at step {saved:,}" in said
    rows = read_metrics(path / "metrics.jsonl")
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    assert steps[-1] >= saved + 3000
    gaps = [b - a for a, b in itertools.pairwise(steps)]
    assert max(gaps) <= 32 * 32  # one iteration: nothing is missing where the run was cut


@pytest.mark.slow
def test_the_whole_way_on_real_atari(tmp_path: Path) -> None:
    path = tmp_path / "run"
    flags = [
        "--total-steps=600", "--num-envs=4", "--minibatches=2", "--rollout-length=64", "--plain",
        "--evaluation-games=2", f"--run-dir={path}",
    ]  # fmt: skip
    assert run("train", "quickstart", *flags) == 0
    (file,) = (path / "evaluations").glob("*.json")
    result = json.loads(file.read_text())
    assert result["summary"]["task"] == "atari/Breakout"
    assert result["summary"]["human_normalized"] is not None
    assert result["summary"]["success"] is None
    assert result["environment"]["protocol"] == "classic"
    assert result["environment"]["changed_rules"] == {}
    assert result["environment"]["episodic_life"]
    assert result["environment"]["max_episode_steps"] == 27_000
    assert all(length > 50 for length in result["lengths"])  # a whole game, not one life
    (video,) = (path / "videos").iterdir()
    assert video.stat().st_size > 5_000
    assert (path / "curve.png").stat().st_size > 5_000


@pytest.mark.slow
def test_one_flag_makes_a_flickering_game_and_another_a_protocol(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "core:gru", "--total-steps=300", "--num-envs=4", "--minibatches=2", "--rollout-length=64",
        "--plain", "--evaluation-games=2", "--no-video", "--env.game=Pong", "--env.max-frames=800",
    ]  # fmt: skip
    for flag, printed in (
        ("--env.flicker=0.5", "classic, but max_frames 800, flicker 0.5"),
        ("--env.protocol=machado", "machado, but max_frames 800"),
    ):
        path = tmp_path / flag
        assert run("train", "quickstart", *flags, flag, f"--run-dir={path}") == 0
        assert printed in capsys.readouterr().out
        screens = fwp_rl.load_policy(path).spec.observation_shape[0]
        assert screens == (1 if "flicker" in flag else 4)
        (file,) = (path / "evaluations").glob("*.json")
        rules = json.loads(file.read_text())["environment"]["rules"]
        assert rules["max_frames"] == 800
        assert rules["full_action_space"] == ("machado" in flag)


@pytest.mark.slow
@pytest.mark.parametrize("core", sorted(CORES))
def test_every_core_trains_in_the_quickstart(core: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    flags = ["--total-steps=500", "--num-envs=4", "--minibatches=2", "--rollout-length=32"]
    rest = ["--evaluation-games=0", "--no-video", "--plain", f"--run-dir={path}"]
    assert run("train", "quickstart", f"core:{core}", *flags, *rest) == 0
    rows = read_metrics(path / "metrics.jsonl")
    assert rows[-1]["step"] >= 500
    assert max(row["policy/ratio_deviation"] for row in rows) < 1e-3


@pytest.mark.slow
def test_doctor_finds_this_machine_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    said = capsys.readouterr().out
    assert "All is well." in said
    assert "numba threading layer" in said


def test_a_person_hears_that_kernels_are_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("fwp_rl.kernels.numba_cache")
    for _ in range(2):
        assert run("list", "agents") == 0
    capsys.readouterr()
    log.info("compiling")
    assert capsys.readouterr().err == "fwp-rl: compiling\n", "once"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["list", "games", "--jsn"], "got --jsn, expected nothing or --json"),
        (["list", "--jsn", "games"], "cannot list '--jsn'"),
        (["list", "--json"], "cannot list ''. Known: cores, "),
    ],
)
def test_a_list_takes_one_flag(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*args) == 2
    assert said in " ".join(capsys.readouterr().err.split())
