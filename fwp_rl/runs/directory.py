"""The run directory: the one interface between training and all that comes after.

runs/<name>/
    config.yaml                 what was asked for
    status.json                 running, finished, stopped or failed, and how far
    metrics.jsonl  events.*     one line per update; the same for TensorBoard
    curve.png
    checkpoints/step_.../       to go on training
    policy/                     to use the policy
    evaluations/  videos/
    result.json  task/          of a sequence task: what it came to, and its vocabulary
"""

from __future__ import annotations

import itertools
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml
from filelock import FileLock, Timeout

from fwp_rl.machine import facts
from fwp_rl.runs.files import (
    CheckpointError,
    folder_exists,
    read_json,
    write_file,
    write_json,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "RunDirectory",
    "RunError",
    "RunState",
    "check_policy_folder",
    "default_run_name",
    "policy_folder",
]

RunState = Literal["running", "finished", "stopped", "failed"]

_LOCK = ".lock"


class RunError(RuntimeError):
    """A run directory that cannot be used as asked; says why and what to do."""


def default_run_name(what: str, *, game: str, core: str, seed: int, now: datetime) -> str:
    """``<what>-<game>-<core>-s<seed>-<YYYYmmdd-HHMMSS>``, fit for a file name.

    what  the preset, or the agent
    """
    name = f"{what}-{game}-{core}-s{seed}-{now:%Y%m%d-%H%M%S}"
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def policy_folder(path: Path) -> Path:
    """The folder of the policy at a path: of a run its policy/, else the path itself.
    CheckpointError where there is no such folder."""
    inside = path / "policy"
    folder = inside if folder_exists(inside) or RunDirectory.is_run(path) else path
    check_policy_folder(folder)
    return folder


def check_policy_folder(folder: Path) -> None:
    """CheckpointError unless it exists; what it holds is not looked at."""
    if not folder_exists(folder):
        raise CheckpointError(
            f"{folder}: there is no such folder; expected a policy folder, a run directory that "
            "has saved a policy/, or a checkpoint of such a run (RUN/checkpoints/step_...)"
        )


@dataclass(frozen=True)
class RunDirectory:
    """The paths of a run, its status and its lock. Get one by ``create`` or ``open``."""

    path: Path

    @classmethod
    def create(cls, path: str | Path) -> RunDirectory:
        """Make the directory of a new run. RunError where there is a run or anything else in it,
        and where nothing can be written."""
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            found = sorted(
                p.name for p in path.iterdir() if not p.name.startswith((_LOCK, ".tmp-"))
            )
            probe = path / f".tmp-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RunError(
                f"{path}: cannot be made or written: {error.strerror}; name another --run-dir"
            ) from error
        if cls.is_run(path):
            raise RunError(
                f"{path}: holds a run already; continue it with --resume {path}, or name another "
                "--run-dir"
            )
        if found:
            raise RunError(
                f"{path}: is not empty (it holds {', '.join(found[:3])}"
                f"{', ...' if len(found) > 3 else ''}); name another --run-dir"
            )
        return cls(path)

    @classmethod
    def create_default(cls, parent: str | Path, name: str) -> RunDirectory:
        """Make the directory of a new run below ``parent`` under a name that nobody has: ``name``,
        or ``name-2``, ``name-3``, ... Runs that start in the same second, on one host or on several
        that share the disk, get one each. RunError where nothing can be written."""
        parent = Path(parent)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for number in itertools.count(1):
                path = parent / (name if number == 1 else f"{name}-{number}")
                with suppress(FileExistsError):
                    path.mkdir()  # which one process alone succeeds in
                    break
        except OSError as error:
            raise RunError(
                f"{parent}: cannot be made or written: {error.strerror}; name a --run-dir"
            ) from error
        return cls.create(path)

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """The directory of an existing run, or a RunError."""
        path = Path(path)
        if not path.is_dir():
            raise RunError(f"{path}: there is no such run directory")
        if not cls.is_run(path):
            raise RunError(f"{path}: has no config.yaml, so it is not a run directory")
        return cls(path)

    @staticmethod
    def is_run(path: Path) -> bool:
        return (path / "config.yaml").is_file()

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def curve(self) -> Path:
        return self.path / "curve.png"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def task(self) -> Path:
        return self.path / "task"

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml; from here on the directory counts as a run."""
        write_file(self.config, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    def write_status(
        self,
        state: RunState,
        *,
        step: int,
        total: int,
        device: torch.device | str = "cpu",
        run: Mapping[str, Any] | None = None,
    ) -> None:
        """Write status.json. ``started`` stays what it was at the first time.

        run  the run's identity
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            started = self.read_status().get("started", now)
        except (CheckpointError, OSError):  # damaged: it is written anew
            started = now
        status = {
            "run": run,
            "state": state,
            "step": step,
            "total": total,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": started,
            "updated": now,
            **facts(device),
        }
        write_json(self.status, status)

    def read_status(self) -> dict[str, Any]:
        """The content of status.json; empty where there is none."""
        try:
            return read_json(self.status)
        except FileNotFoundError:
            return {}

    def state(self) -> str:
        """What status.json says, but ``killed`` where it says running and no process trains there;
        ``unknown`` where it says nothing that can be read."""
        try:
            state = self.read_status().get("state")
        except (OSError, RuntimeError):
            return "unknown"
        if state not in get_args(RunState):
            return "unknown"
        try:
            return "killed" if state == "running" and not self.is_locked() else str(state)
        except (OSError, NotImplementedError):  # a lock that cannot be asked
            return str(state)

    def is_locked(self) -> bool:
        """Whether a process trains there. OSError where that cannot be told."""
        if not (self.path / _LOCK).exists():
            return False
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return True
        lock.release()
        return False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory against other trainers. RunError, naming the holder, where one has it.

        The operating system drops the lock of a process that died.
        """
        holder = self.path / f"{_LOCK}-holder.json"
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise RunError(
                f"{self.path}: is being trained by {_describe_holder(holder)}; wait for it, stop "
                "it, or name another --run-dir"
            ) from None
        except (OSError, NotImplementedError) as error:  # some file systems know no locks
            reason = getattr(error, "strerror", None) or error
            raise RunError(f"{self.path}: cannot be locked: {reason}") from error
        try:
            write_json(holder, {"pid": os.getpid(), "host": socket.gethostname()})
            yield
        finally:
            with suppress(OSError):  # what ended the training is to be heard
                holder.unlink()
            lock.release()


def _describe_holder(holder: Path) -> str:
    try:
        known = read_json(holder)
        return f"process {known['pid']} on host {known['host']}"
    except (OSError, RuntimeError, KeyError):  # it has only just begun, or is about to end
        return "another process"
