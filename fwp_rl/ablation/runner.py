"""Runs the cells of a grid in worker processes until all are finished.

A cell is a process of its own, ``fwp-rl train``: it cannot take another with it, saves when it is
asked to stop, and is resumed by the next. It runs in a session of its own, so that Ctrl-C and a
lost terminal reach the runner alone, which then asks each of its workers once, and kills those that
do not end in time.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fwp_rl.ablation.display import Display, Row, in_words
from fwp_rl.ablation.estimate import crowded, remaining_seconds
from fwp_rl.ablation.folder import AblationFolder, CellProgress
from fwp_rl.ablation.grid import Cell, Grid
from fwp_rl.runs.crashes import crash_trace
from fwp_rl.runs.signals import StopRequest

__all__ = ["run_grid", "wandb_environment", "worker_environment"]

ATTEMPTS = 2
"""Times that a cell may crash in one call, before it counts as failed."""
POLL = 0.5
"""Seconds between two looks at the workers."""
KILL_SECONDS = 10.0
"""How long a worker that was killed is waited for: one that hangs in the system may stay."""
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
"""Signals by which native code ends a process; it leaves a trace in the run directory."""
_LONGEST_TAG = 64
"""Characters that W&B takes of a tag."""
_THREAD_VARIABLES = (
    "FWP_RL_CORES",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


@dataclass
class _Worker:
    cell: Cell
    process: subprocess.Popen[bytes]
    attempt: int


@dataclass
class _Runner:
    grid: Grid
    folder: AblationFolder
    jobs: int
    threads: int
    stop_seconds: float
    display: Display
    imports: Sequence[str]
    """Modules that the workers are to import."""
    waiting: deque[tuple[Cell, int]] = field(default_factory=deque)
    """Cells to start, each with the number of the attempt."""
    workers: list[_Worker] = field(default_factory=list)
    rows: dict[str, Row] = field(default_factory=dict)

    def run(self) -> tuple[list[Cell], int]:
        """The cells that failed, and the exit code that a stop signal asks for (else 0)."""
        self._look_around()
        with StopRequest() as stop, self.display:
            try:
                try:
                    while (self.waiting or self.workers) and not stop.requested:
                        self._collect()
                        self._start()
                        self._show()
                        time.sleep(POLL)
                except Exception:  # the runner's own trouble costs no worker what it has learned
                    self._stop_workers()
                    raise
                if stop.requested:
                    self._stop_workers()
                self._show(final=True)
            except BaseException:  # a second Ctrl-C among them
                for worker in self.workers:
                    _kill(worker.process)
                raise
        failed = [cell for cell in self.grid.cells if self.rows[cell.name].state == "failed"]
        return failed, stop.exit_code

    def _look_around(self) -> None:
        """Queue what is not finished: half-done cells first."""
        for cell in self.grid.cells:
            state = self.folder.state(cell)
            row = Row(cell=cell, state="finished" if state == "finished" else "waiting")
            row.progress = self.folder.progress(cell)
            if state == "finished":
                row.score = self.folder.score(cell)
            elif state == "waiting":
                self.waiting.append((cell, 1))
            else:
                self.waiting.appendleft((cell, 1))
            self.rows[cell.name] = row

    def _start(self) -> None:
        for _ in range(len(self.waiting)):
            if len(self.workers) >= self.jobs:
                return
            cell, attempt = self.waiting.popleft()
            state = self.folder.state(cell)
            if state == "busy":
                self._say(cell, "is being trained by another process; waiting for it", "busy")
                self.waiting.append((cell, attempt))
            elif state == "finished":  # by that other process
                self._finish(cell)
            else:
                self._launch(cell, attempt)

    def _launch(self, cell: Cell, attempt: int) -> None:
        resumes = self.folder.prepare(cell)
        run = self.folder.run(cell).path
        what = [str(self.folder.config(cell))]
        if resumes:
            what = ["--resume", str(run), *self.folder.resume_flags(cell)]
        command = [sys.executable, "-m", "fwp_rl", "train", *what, "--plain"]
        command += [f"--import={module}" for module in self.imports]
        log = self.folder.log(cell)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            output.write(f"\n$ {' '.join(command)}\n".encode())
            output.flush()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=worker_environment(self.threads) | wandb_environment(self.grid, cell),
                start_new_session=True,
            )
        self.workers.append(_Worker(cell, process, attempt))
        step = self.folder.progress(cell).step if resumes else 0
        how = f"resumed at step {step:,}" if resumes else "started"
        self._say(cell, f"{how} (process {process.pid})", "running")
        self._record(cell, "resumed" if resumes else "started", pid=process.pid, attempt=attempt)

    def _collect(self) -> None:
        """Look after the workers that have ended."""
        for worker in [w for w in self.workers if w.process.poll() is not None]:
            self.workers.remove(worker)
            cell, code = worker.cell, worker.process.returncode
            if code == 0 and self.folder.state(cell) == "finished":
                self._finish(cell)
                continue
            last = worker.attempt >= ATTEMPTS
            how, log = _how_it_ended(code), self.folder.log(cell)
            said = self.folder.log_tail(cell)
            trace = crash_trace(self.folder.run(cell).path)
            if -code in CRASHES and trace is not None:
                how += f"; {trace} says where"
            self._record(
                cell,
                "failed" if last else "crashed",
                exit=code,
                how=how,
                attempt=worker.attempt,
                said=said,
                log=str(log),
            )
            text = f"failed: {how}. Log: {log}" if last else f"{how}; trying once more"
            self._say(cell, "\n    ".join([text, *said]), "failed" if last else "waiting")
            if not last:
                self.waiting.appendleft((cell, worker.attempt + 1))

    def _finish(self, cell: Cell) -> None:
        score = self.folder.score(cell)
        self._record(
            cell,
            "finished",
            score=None if score is None else score.mean,
            games=None if score is None else score.games,
            step=None if score is None else score.step,
        )
        self.rows[cell.name].score = score
        self.rows[cell.name].progress = self.folder.progress(cell)
        of = "" if score is None else f": return {in_words(score)}"
        self._say(cell, f"finished{of}", "finished")

    def _stop_workers(self) -> None:
        """Ask every worker to save and end, wait for them, and kill those that do not in time."""
        for worker in self.workers:
            # by SIGTERM whatever came here: it works at any time, and is never inherited as ignored
            worker.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + self.stop_seconds
        for worker in self.workers:
            cell, ended = worker.cell, "stopped"
            code: int | None
            try:
                code = worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                ended, code = "killed", _kill(worker.process)
            if self.folder.state(cell) == "finished":  # it was about to end anyway
                self._finish(cell)
                continue
            self._record(cell, ended, exit=code, attempt=worker.attempt)
            step = self.folder.progress(cell).step
            text = f"stopped at step {step:,}"
            if ended == "killed":
                text = (
                    f"process {worker.process.pid} did not stop within {self.stop_seconds:g} s and "
                    f"was killed at step {step:,}: what it had not saved is lost"
                )
            self._say(cell, text, "waiting")
        self.workers.clear()

    def _record(self, cell: Cell, event: str, **facts: Any) -> None:
        """Add a line to the ledger, which is for people: a full disk does not stop the cells."""
        try:
            self.folder.record(cell, event, **facts)
        except OSError as error:
            self.display.message(f"{self.folder.ledger}: cannot be written: {error.strerror}")

    def _say(self, cell: Cell, text: str, state: str) -> None:
        if self.rows[cell.name].state == state == "busy":
            return
        self.rows[cell.name].state = state
        self.display.message(f"{cell.name}: {text}")

    def _show(self, *, final: bool = False) -> None:
        for worker in self.workers:
            self.rows[worker.cell.name].progress = self.folder.progress(worker.cell)
        done: dict[str, CellProgress] = {name: row.progress for name, row in self.rows.items()}
        finished = {name for name, row in self.rows.items() if row.state in ("finished", "failed")}
        left = remaining_seconds(self.grid.cells, done, finished=finished, jobs=self.jobs)
        self.display.update(list(self.rows.values()), left, final=final)


def run_grid(
    grid: Grid,
    output: Path,
    *,
    jobs: int,
    threads: int,
    stop_seconds: float = 60.0,
    plain: bool = False,
    imports: Sequence[str] = (),
) -> tuple[list[Cell], int]:
    """Run what is left of a grid; the cells that failed, and a stop signal's exit code (else 0).

    stop_seconds  what a stop leaves the workers to save in, before they are killed
    imports       modules that the workers import before all else, which register what the grid
                  names

    RunError where another runner has the folder, or where it holds other experiments under the
    names of these.
    """
    folder = AblationFolder(output)
    with folder.lock():
        notes = folder.check(grid)
        folder.write(grid)
        display = Display(title=f"{grid.name} in {output}", plain=plain)
        for note in [*notes, *crowded(grid.cells, threads=threads)]:
            display.message(note)
        return _Runner(grid, folder, jobs, threads, stop_seconds, display, imports).run()


def worker_environment(threads: int) -> dict[str, str]:
    """The environment of a worker that computes, and steps its environments, with so many
    threads."""
    return {**os.environ, **{name: str(threads) for name in _THREAD_VARIABLES}}


def wandb_environment(grid: Grid, cell: Cell) -> dict[str, str]:
    """Where Weights & Biases is to put a cell, if its config asks for W&B: in a group of the grid's
    name, as a job of what it has beside its seed, with a tag for each axis. It reads them from the
    environment; what the user has set there stands."""
    kind = "-".join(label for axis, label in cell.labels.items() if axis != "seed")
    tags = [
        f"{axis}={label}".replace(",", " ")[:_LONGEST_TAG] for axis, label in cell.labels.items()
    ]
    asked = {
        "WANDB_RUN_GROUP": grid.name,
        "WANDB_JOB_TYPE": kind or grid.name,
        "WANDB_TAGS": ",".join(tags),
    }
    return {name: value for name, value in asked.items() if not os.environ.get(name)}


def _kill(process: subprocess.Popen[bytes]) -> int | None:
    """End a worker, and the processes that it has started, at once; returns its exit code, or None
    where it hangs in the system and cannot even be killed."""
    if process.poll() is None and hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its session's group has its own number
    process.kill()
    try:
        return process.wait(KILL_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return "ended without a result" if code == 0 else f"exit code {code}"
    try:
        name = f" ({signal.Signals(-code).name})"
    except ValueError:
        name = ""
    return f"killed by signal {-code}{name}" + (": out of memory?" if code == -9 else "")
