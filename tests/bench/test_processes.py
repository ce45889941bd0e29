"""Processes of a benchmark: fresh ones answer, or say how they ended. None outlives it."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fwp_rl.bench.processes import MeasurementError, busy, fresh, peak_memory


def _gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"  # ended, and not waited for by whoever has inherited it


def test_a_fresh_process_answers() -> None:
    assert fresh(os.getpid) != os.getpid()
    assert fresh(math.hypot, 3.0, 4.0) == 5.0


def test_what_it_raises_is_told_in_a_line() -> None:
    with pytest.raises(MeasurementError) as raised:
        fresh(math.sqrt, -1.0)
    assert str(raised.value) == "ValueError: math domain error"
    assert "Traceback" in raised.value.__notes__[0]


def test_how_it_ended_is_told() -> None:
    with pytest.raises(MeasurementError, match="exit code 3"):
        fresh(os._exit, 3)
    with pytest.raises(MeasurementError, match="SIGKILL, as the system does where memory runs out"):
        fresh(signal.raise_signal, signal.SIGKILL)


def test_its_peak_memory_is_its_own() -> None:
    """Not that of the process which started it, which the system hands down."""
    room = bytearray(200_000_000)
    assert peak_memory() > len(room)
    assert 1_000_000 < fresh(peak_memory) < 150_000_000


def test_busy_processes_are_gone_afterwards() -> None:
    pids = []

    def interrupted() -> None:
        with busy(2) as processes:
            assert not any(map(_gone, processes))
            pids.extend(processes)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(pids) == 2
    assert all(map(_gone, pids))


MEASURING = """
import signal, time
from fwp_rl.bench.processes import busy, fresh
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job of a shell's
    with busy(1) as pids:
        print(*pids, flush=True)
        fresh(time.sleep, 600)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_they_end_with_a_benchmark_that_is_stopped(how: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "measuring.py"
    script.write_text(MEASURING)
    bench = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert bench.stdout is not None
    pids = list(map(int, bench.stdout.readline().split()))
    children = Path(f"/proc/{bench.pid}/task/{bench.pid}/children")
    while len(pids) < 3 and bench.poll() is None:  # beside the busy one: fresh, and its tracker
        pids = list({*pids, *map(int, children.read_text().split())})
        time.sleep(0.01)
    bench.send_signal(how)
    bench.wait()
    while not all(map(_gone, pids)):  # the test's own time limit ends this
        time.sleep(0.01)
    bench.stdout.close()
