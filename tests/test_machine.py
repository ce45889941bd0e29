"""Devices, cores and facts of the machine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch

import fwp_rl
from fwp_rl import machine
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.config import ConfigError
from fwp_rl.cores.rnn import LSTMConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.evaluation import make_actor
from fwp_rl.machine import choose_device, cpu_threads, facts, set_gpu_arithmetic, usable_cores
from fwp_rl.models.encoders import MLPConfig, NatureCNNConfig
from fwp_rl.models.policy import Policy, PolicyConfig
from fwp_rl.rl.actors import ActorsConfig
from fwp_rl.runs.presets import experiment
from fwp_rl.training.session import TrainingSession
from fwp_rl.types import EnvSpec, Observation


@pytest.mark.parametrize("name", ["tpu", "cuda:", "cuda:-1", "cuda:x", "meta", "", "CPU", "cpu:0"])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda or cuda:N"):
        choose_device(name)


@pytest.mark.parametrize(
    ("count", "name", "chosen"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (0, "cuda", "no CUDA device here; use --device cpu"),
        (0, "cuda:0", "no CUDA device here; use --device cpu"),
        (2, "auto", "cuda"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
        (2, "cuda:2", "only 2, counted from cuda:0 here; use a smaller number"),
    ],
)
def test_a_device_is_one_that_is_here(
    count: int, name: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if "use" in chosen:
        with pytest.raises(ConfigError, match=f"got '{name}', but torch finds {chosen}"):
            choose_device(name)
    else:
        assert choose_device(name) == torch.device(chosen)


def system(root: Path, groups: str, **files: str) -> Path:
    """A root with /proc/self/cgroup and the files below /sys/fs/cgroup ("__" is "/")."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: 8, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu_max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu_max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu_max": "350000 100000\n"}, 3),  # half a core would be waited for
        ("0::/\n", {"cpu_max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu_max": "1600000 100000\n"}, 8),  # affinity is the smaller one
        # the limit of a job above the step that runs
        ("0::/job/a\n", {"job__cpu_max": "200000 100000", "job__a__cpu_max": "max 100000"}, 2),
        ("0::/job/a\n", {"job__cpu_max": "max 100000", "job__a__cpu_max": "300000 100000"}, 3),
        ("0::/job/a\n", {"job__cpu_max": "200000 100000", "job__a__cpu_max": "300000 100000"}, 2),
        # version 2 in a container that shows the host's path
        ("0::/docker/abc\n", {"cpu_max": "200000 100000"}, 2),
        ("0::/../other\n", {"cpu_max": "200000 100000", "..__cpu_max": "100000 100000"}, 2),
        # version 1
        (
            "3:cpuset:/\n2:cpu,cpuacct:/x\n1:memory:/\n",
            {"cpu,cpuacct__x__cpu_cfs_quota_us": "250000\n",
             "cpu,cpuacct__x__cpu_cfs_period_us": "100000\n"},
            2,
        ),
        ("1:cpu:/\n", {"cpu__cpu_cfs_quota_us": "-1\n", "cpu__cpu_cfs_period_us": "100000\n"}, 8),
        # of a hierarchy that the process is not in
        ("1:cpuset:/\n", {"cpu_max": "100000 100000\n"}, 8),
        (
            "1:cpuset:/\n",
            {"cpu__cpu_cfs_quota_us": "100000\n", "cpu__cpu_cfs_period_us": "100000\n"},
            8,
        ),
        ("1:cpu:/\n", {"cpu__cpu_cfs_quota_us": "rubbish", "cpu__cpu_cfs_period_us": "0"}, 8),
    ],
)  # fmt: skip
def test_the_cores_are_those_that_affinity_and_quota_allow(
    groups: str, files: dict[str, str], cores: int, tmp_path: Path
) -> None:
    assert usable_cores(system(tmp_path, groups, **files)) == cores


def test_a_device_is_called_by_the_field_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = r"^actors\.device: got 'cuda:5', .* use --actors.device cpu$"
    with pytest.raises(ConfigError, match=message):
        ActorsConfig(device="cuda:5").resolve_device(torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"^actors\.device: got 'tpu', expected auto"):
        choose_device("tpu", field="actors.device")


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("usable", "before", "after"), [(3, None, "3"), (3, "5", "5"), (8, None, None)]
)
def test_torch_gets_the_threads_that_a_quota_pays_for(
    usable: int, before: str | None, after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: usable)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if before is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", before)
    try:
        machine.limit_threads()
        assert os.environ.get("OMP_NUM_THREADS") == after
    finally:
        os.environ.pop("OMP_NUM_THREADS", None)  # the rest is monkeypatch's to restore


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("usable", "variable", "before", "after"),
    [(3, None, 5, 3), (3, None, 2, 2), (3, "5", 5, 5), (8, None, 9, 9)],
)
def test_training_from_python_gets_them_too(
    usable: int, variable: str | None, before: int, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: usable)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    with cpu_threads(before):
        TrainingSession(PPOConfig(device="cpu", keep_memory=False))
        assert torch.get_num_threads() == after
        assert os.environ.get("OMP_NUM_THREADS") == variable


@pytest.mark.usefixtures("eight_cores")
def test_without_control_groups_affinity_alone_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 8


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(("share", "cores"), [("3", 3), ("1", 1), ("99", 8), ("", 8)])
def test_a_process_keeps_to_its_share(
    share: str, cores: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FWP_RL_CORES", share)
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize("share", ["0", "-1", "2.5", "many"])
def test_a_share_that_is_no_number_is_refused(share: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FWP_RL_CORES", share)
    with pytest.raises(ConfigError, match=f"FWP_RL_CORES: got '{share}', expected a whole number"):
        usable_cores()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="has no affinity")
def test_a_process_that_is_bound_to_one_core_has_one() -> None:
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from fwp_rl.machine import usable_cores; print(usable_cores())"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "1"


def test_what_results_carry() -> None:
    known = facts()
    assert known["versions"]["torch"] == torch.__version__
    assert known["versions"]["fwp-rl"] == fwp_rl.__version__
    assert known["machine"]["cores"] == usable_cores()
    assert known["machine"]["threads"] == torch.get_num_threads()
    assert known["machine"]["numba_threads"] >= 1
    assert "gpu" not in known["machine"]


@pytest.fixture
def arithmetic() -> Iterator[None]:
    """Puts torch's settings back as they were."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_a_gpu_is_named_where_it_computed_with_how_it_multiplies(
    precision: Literal["float32", "tf32"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the GPU of {device}")
    set_gpu_arithmetic(precision)
    known = facts(torch.device("cuda:1"))["machine"]
    assert known["gpu"] == "the GPU of cuda:1"
    assert known["matmul_precision"] == known["cudnn_precision"] == precision
    assert known["cudnn_benchmark"]
    assert "matmul_precision" not in facts("cpu")["machine"]


@pytest.mark.usefixtures("arithmetic")
def test_who_asks_for_the_same_bits_gets_no_timed_convolutions() -> None:
    torch.backends.cudnn.deterministic = True
    set_gpu_arithmetic("float32")
    assert not torch.backends.cudnn.benchmark


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_training_and_evaluation_multiply_as_the_config_says(
    precision: Literal["float32", "tf32"],
) -> None:
    config = PPOConfig(device="cpu", keep_memory=False, matmul_precision=precision)
    assert experiment(config)["matmul_precision"] == precision, "it is no bookkeeping"
    other: Literal["float32", "tf32"] = "tf32" if precision == "float32" else "float32"

    def in_force() -> list[bool]:
        return [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]

    set_gpu_arithmetic(other)
    TrainingSession(config)
    assert in_force() == [precision == "tf32"] * 2
    set_gpu_arithmetic(other)
    env = RecallConfig().make(1, [0])
    policy = Policy(PolicyConfig(encoder=MLPConfig(), matmul_precision=precision), env.spec)
    make_actor(policy, env, seed=0, device=torch.device("cpu"))
    assert in_force() == [precision == "tf32"] * 2


@pytest.mark.usefixtures("arithmetic")
def test_a_cpu_computes_the_same_bits_either_way() -> None:
    spec = EnvSpec(name="screens", observation_shape=(4, 36, 36), num_actions=3)
    torch.manual_seed(0)
    config = PolicyConfig(encoder=NatureCNNConfig(), core=LSTMConfig(), precision="float32")
    policy = Policy(config, spec)
    observation = Observation(
        obs=torch.randint(256, (3, 2, 4, 36, 36), dtype=torch.uint8),
        reset=torch.zeros(3, 2, dtype=torch.bool),
        last_reward=torch.zeros(3, 2),
        last_action=torch.zeros(3, 2, dtype=torch.int64),
    )

    def results() -> list[torch.Tensor]:
        output = policy(observation, policy.initial_state(2))
        loss = output.logits.square().sum() + output.value.sum()
        return [output.logits, *torch.autograd.grad(loss, list(policy.parameters()))]

    set_gpu_arithmetic("float32")
    exact = results()
    set_gpu_arithmetic("tf32")
    assert all(map(torch.equal, results(), exact))


def test_the_commit_is_that_of_the_checkout_and_of_no_repository_around_an_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*args: str, cwd: Path) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", *identity, *args]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout

    try:
        git("init", "-q", cwd=tmp_path)
    except OSError:
        pytest.skip("needs git")
    (tmp_path / "tracked.py").touch()
    git("add", "tracked.py", cwd=tmp_path)
    git("commit", "-q", "-m", "x", cwd=tmp_path)
    head = git("rev-parse", "HEAD", cwd=tmp_path).strip()

    def source_of(root: Path) -> tuple[str | None, bool | None]:
        (root / "fwp_rl").mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(machine, "__file__", str(root / "fwp_rl" / "machine.py"))
        machine.commit.cache_clear()
        machine.dirty.cache_clear()
        return machine.commit(), machine.dirty()

    try:
        (tmp_path / "untracked.py").touch()
        assert source_of(tmp_path) == (head, False)
        (tmp_path / "tracked.py").write_text("changed")
        assert source_of(tmp_path) == (head, True)
        assert source_of(tmp_path / "venv" / "site-packages") == (None, None)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert source_of(tmp_path) == (None, None), "no git, no commit, no error"
    finally:
        machine.commit.cache_clear()
        machine.dirty.cache_clear()
