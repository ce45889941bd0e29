"""Trainings that are hurt, each in a process of its own.

FWP_RL_FAULT_RESULTS names a file that long tests append what they counted to, one line of JSON
each.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fwp_rl.runs.checkpoint import newest_good

SERVER = Path(__file__).with_name("trainee.py")


class Trainee:
    """A training under way."""

    def __init__(self, server: "Server", arguments: list[str], output: Path) -> None:
        self.run = Path(arguments[0])
        self._server = server
        self._output = output
        self.pid = server.ask("start", arguments, str(output))

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    @property
    def said(self) -> str:
        return self._output.read_text() if self._output.exists() else ""

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until it has said so; the test's timeout is the limit."""
        while self.said.count(text) < times:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
            assert state != "Z", self.said
            time.sleep(0.02)

    def wait(self) -> int:
        """Its exit code; negative for a signal."""
        return self._server.ask("wait", self.pid)

    @property
    def status(self) -> dict[str, Any]:
        return json.loads((self.run / "status.json").read_text())

    @property
    def saved_step(self) -> int:
        checkpoint = newest_good(self.run / "checkpoints")
        assert checkpoint is not None
        return checkpoint.step


class Server:
    """The process that trainings are forked from."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        )

    def ask(self, *command: Any) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(
        self, folder: Path, agent: str, fault: str, *changes: str, at: int = 100, run: str = "run"
    ) -> Trainee:
        """Train in ``folder/run``; the environments do what ``fault`` says at step ``at``."""
        folder.mkdir(exist_ok=True)
        output = folder / f"said-{time.monotonic_ns()}"
        return Trainee(self, [str(folder / run), agent, fault, str(at), *changes], output)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.process.communicate()


@pytest.fixture
def record() -> Callable[[str, Mapping[str, Any]], None]:
    """Tell what a long test has counted."""

    def tell(name: str, facts: Mapping[str, Any]) -> None:
        print(f"\n{name}: " + ", ".join(f"{key} {value}" for key, value in facts.items()))
        if file := os.environ.get("FWP_RL_FAULT_RESULTS"):
            with open(file, "a") as results:
                results.write(json.dumps({"test": name, **facts}) + "\n")

    return tell
