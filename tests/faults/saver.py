"""A save that ends at one of its system calls, as by ``kill -9``: what it had done stays done.

Run by the server of ``trainee.py``.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.models.encoders import MLPConfig
from fwp_rl.models.policy import Policy, PolicyConfig
from fwp_rl.runs.checkpoint import save_checkpoint
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.policy import save_policy

CALLS = ("mkdir", "open", "fsync", "rename", "replace", "unlink", "rmdir")
"""Of the module os; files are written by their own ``write``."""
KILLED = 9


class Calls:
    """Counts the system calls of a save, and ends the process at one of them.

    when  before, after, or torn: in the middle of a write
    """

    def __init__(self, point: int, when: str) -> None:
        self.point, self.when, self.seen = point, when, 0
        self.names: list[str] = []

    def plant(self) -> None:
        # what has been written outlives a process that has not waited for the disk
        os.fsync = lambda descriptor: None
        for name in CALLS:
            setattr(os, name, self._around(name, getattr(os, name)))
        calls = self

        def opened(path: Path, mode: str = "r", **more: Any) -> Any:
            return calls._open(path, mode, **more)

        Path.open = opened  # type: ignore[method-assign, assignment]

    def enter(self, name: str) -> bool:
        """Whether this call is the one."""
        self.seen += 1
        self.names.append(name)
        if self.seen == self.point and self.when == "before":
            os._exit(KILLED)
        return self.seen == self.point

    def _around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **more: Any) -> Any:
            here = self.enter(name)
            try:
                return call(*given, **more)
            finally:
                if here:
                    os._exit(KILLED)

        return called

    def _open(self, path: Path, mode: str = "r", **more: Any) -> Any:
        if not set(mode) & set("wxa"):
            return open(path, mode, **more)
        here = self.enter("open")
        file = _Written(io.FileIO(path, mode.replace("b", "")), self)
        if here:
            os._exit(KILLED)
        return file


class _Written:
    """A file that hands each write to the system at once."""

    def __init__(self, file: io.FileIO, calls: Calls) -> None:
        self.file, self.calls = file, calls

    def write(self, data: bytes) -> int:
        here = self.calls.enter("write")
        if here and self.calls.when == "torn":
            self.file.write(data[: len(data) // 2])
            os._exit(KILLED)
        count = self.file.write(data)
        if here:
            os._exit(KILLED)
        return count

    def flush(self) -> None: ...

    def fileno(self) -> int:
        return self.file.fileno()

    def __enter__(self) -> "_Written":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


def save(run: RunDirectory, step: int) -> None:
    """What a session writes when a checkpoint is due; the weights are the step."""
    config = PolicyConfig(encoder=MLPConfig(hidden_sizes=(4,)), core=FeedforwardConfig())
    policy = Policy(config, RecallConfig().spec())
    optimizer = torch.optim.Adam(policy.parameters())
    for parameter in policy.parameters():
        parameter.data.fill_(step / 1000)
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    save_checkpoint(
        run.checkpoints,
        step=step,
        policy=policy,
        optimizer=optimizer,
        state={"games": step},
        generators={},
        run={"id": "a-run", "config": {}},
        score=-step,  # the first is the best, and stays
        measure="training",
    )
    save_policy(run.policy, policy, env=RecallConfig(), metadata={"step": step})
    run.write_status("running", step=step, total=1000)


def main(run: str, step: str, point: str = "0", when: str = "before") -> None:
    """Save a step; where ``point`` is 0, all of it, and say at which calls it could have ended."""
    calls = Calls(int(point), when)
    calls.plant()
    save(RunDirectory(Path(run)), int(step))
    print(*calls.names, flush=True)
