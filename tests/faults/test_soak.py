"""Memory, threads and open files of long trainings are those of short ones.

pytest -s -m long tests/faults/test_soak.py
"""

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from fwp_rl.runs.metrics import last_rows

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")

WARM_UP = 0.1
"""Share of the steps before the first sample that counts."""
GROWTH = 5.0
"""MB per 100,000 steps, at most, that a training may grow by from its first third to its last."""
NOISE = 8.0
"""MB that the allocator may take more or less."""
ENVS = 32
"""To step few takes as long as to step many."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A training's process at a step."""

    step: int
    megabytes: float
    threads: int
    files: int


def sample(pid: int, run: Path) -> Sample | None:
    """None before the first row, and once it has ended."""
    rows = last_rows(run / "metrics.jsonl")
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        files = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    if not rows or "VmRSS" not in facts:
        return None
    return Sample(
        step=int(rows[-1]["step"]),
        megabytes=int(facts["VmRSS"].split()[0]) / 1024,
        threads=int(facts["Threads"]),
        files=files,
    )


def soak(server, folder: Path, agent: str, steps: int, *, pause: float, minutes: float):
    """The samples of a training, after its warm-up."""
    trainee = server.start(
        folder,
        agent,
        "nothing",
        f"total_steps={steps}",
        f"checkpoint_minutes={minutes}",
        "hang_seconds=60",
        f"num_envs={ENVS}",
        *([f"batch_size={ENVS}"] if agent == "threads" else []),
        at=1,
    )
    samples: list[Sample] = []
    while not (trainee.run / "curve.png").exists() and running(trainee.pid):
        time.sleep(pause)
        if (taken := sample(trainee.pid, trainee.run)) is not None:
            samples.append(taken)
    assert trainee.wait() == 0, trainee.said
    # at the last step a picture is drawn, which is no training
    return [s for s in samples if WARM_UP * steps < s.step < steps]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def check_flat(samples: list[Sample]) -> dict[str, float]:
    """The last third against the first."""
    begin, end = samples[0].step, samples[-1].step
    third = (end - begin) / 3
    first = [s for s in samples if s.step <= begin + third]
    last = [s for s in samples if s.step >= end - third]
    grown = statistics.median(s.megabytes for s in last) - statistics.median(
        s.megabytes for s in first
    )
    assert grown < NOISE + GROWTH * 2 * third / 100_000
    for name in ("threads", "files"):  # a save under way has a file more
        values = [[getattr(s, name) for s in part] for part in (first, last)]
        assert statistics.median(values[1]) <= statistics.median(values[0])
        assert min(values[1]) <= min(values[0])
    return {
        "samples": len(samples),
        "steps": end,
        "MB in the first third": round(statistics.median(s.megabytes for s in first), 1),
        "MB in the last third": round(statistics.median(s.megabytes for s in last), 1),
        "MB at most": round(max(s.megabytes for s in samples), 1),
        "threads": max(s.threads for s in last),
        "files at most": max(s.files for s in last),
    }


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["ppo", "threads"])
def test_a_training_does_not_grow(agent, server, tmp_path):
    check_flat(soak(server, tmp_path, agent, 20_000, pause=0.1, minutes=0.01))


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("agent", ["ppo", "threads"])
def test_a_million_steps_do_not_grow(agent, server, tmp_path, record):
    samples = soak(server, tmp_path, agent, 1_000_000, pause=0.5, minutes=0.05)
    print("\n   step      MB  threads  files")
    for taken in samples[:: max(1, len(samples) // 12)]:
        print(f"{taken.step:8,} {taken.megabytes:7.1f} {taken.threads:8} {taken.files:6}")
    record(f"soak {agent}", check_flat(samples))
