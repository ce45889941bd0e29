"""Every reader against damaged and hostile files: it reads them or refuses them in a line, in
little time and memory.

    FWP_RL_FUZZ_SECONDS=600 pytest -s -m long tests/faults/test_readers.py
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

FUZZER = Path(__file__).with_name("fuzzer.py")
SECONDS = float(os.environ.get("FWP_RL_FUZZ_SECONDS", "600"))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs limits on memory and time")


def fuzz(server, folder: Path, seconds: float, seed: int) -> dict[str, list[int]]:
    """Reader → inputs, and how many of them it refused."""
    trainee = server.start(folder, "ppo", "nothing", "total_steps=200", "evaluation_games=2")
    assert trainee.wait() == 0, trainee.said
    done = subprocess.run(
        [sys.executable, str(FUZZER), str(folder), str(seconds), str(seed)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert (folder / "reader").exists(), done.stderr
    if done.returncode:
        name, data = (folder / "reader").read_text(), (folder / "input").read_bytes()
        pytest.fail(f"{name}, code {done.returncode}, seed {seed}: {data[-3000:]!r}\n{done.stderr}")
    counts: dict[str, list[int]] = json.loads(done.stdout)
    return counts


@pytest.mark.slow
def test_readers_refuse_in_a_line(server, tmp_path):
    counts = fuzz(server, tmp_path, 5, 0)
    assert sum(inputs for inputs, _ in counts.values()) > 0


@pytest.mark.long
@pytest.mark.timeout(int(SECONDS) + 600)
def test_readers_refuse_in_a_line_for_long(server, tmp_path, record):
    seed = time.time_ns() % 10**6
    counts = fuzz(server, tmp_path, SECONDS, seed)
    record(
        "fuzz",
        {
            "seed": seed,
            "inputs": sum(inputs for inputs, _ in counts.values()),
            "refused": sum(refused for _, refused in counts.values()),
            **{name: inputs for name, (inputs, _) in counts.items()},
        },
    )
