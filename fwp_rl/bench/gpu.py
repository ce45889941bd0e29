"""What only a GPU can show, in one command, most important first.

    python -m fwp_rl.bench.gpu                  in a checkout beside torch, numba and pytest alone
    python -m fwp_rl.bench.gpu --device cpu     a dry run: tiny sizes, numba's kernels, no graphs

| stage     | what it shows                                                                       |
|-----------|-------------------------------------------------------------------------------------|
| smoke     | every op and dtype, eager and captured in a CUDA graph, on threads that never ran    |
|           | CUDA, against the reference in float64                                               |
| tests     | ``pytest -m gpu``                                                                    |
| times     | acting, forward and backward of every op, by events and by graph replay, beside the  |
|           | copy floor, cuDNN's LSTM and, where it is installed, flash-linear-attention          |
| policy    | recurrent nets with resets, what a policy launches and waits for, error and speed of |
|           | TF32, convolutions as cuDNN chooses them and as it times them                        |
| memcheck, racecheck | compute-sanitizer, where it is installed, on a small part of the tests     |
| agents    | a short PPO and a short IMPALA on the device, where their packages are installed     |

Each stage runs in processes of its own, for a kernel that fails takes the CUDA context with it,
and has a share of the time; what one leaves goes to the next. results.jsonl gets a line after
every case, log.txt all output, summary.md the tables after every stage: a run that is cut short
keeps what it has. A smoke case that fails ends the check: times of wrong kernels mean nothing.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from fwp_rl import machine
from fwp_rl.bench.gpu_cases import fused
from fwp_rl.kernels import OPS, BackendError, backend_status

__all__ = ["STAGES", "main"]

ROOT = Path(__file__).resolve().parents[2]

STAGES: Final = {
    "smoke": 120,
    "tests": 200,
    "times": 90,
    "policy": 40,
    "memcheck": 90,
    "racecheck": 110,
    "agents": 120,
}
"""Stage → the most seconds that it may take of a check of MINUTES; in proportion more of a longer
one, and less where the whole check has less left."""

MINUTES: Final = 9

LEAST_SECONDS = 5
"""A stage that has less left is left out."""

TRAINING: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "cuda": {
        "PPO, delta_net": ("ppo_atari", "--total-steps", "100_000_000"),
        "PPO, lstm": ("ppo_atari", "core:lstm", "--total-steps", "100_000_000"),
        "IMPALA, delta_net": ("impala_atari", "--total-steps", "1_000_000_000"),
    },
    "cpu": {"PPO": ("recall", "--total-steps", "4096", "--evaluation-games", "0")},
}
"""Name → what is trained. On a GPU until its time is up: Ctrl-C ends it as it would a user's."""


class Check:
    """One run of the check: its folder, its clock and what it has found."""

    def __init__(self, folder: Path, device: str, ops: Sequence[str], minutes: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.device, self.ops = folder, device, ops
        self.end = time.monotonic() + 60 * minutes
        self._more = max(1.0, minutes / MINUTES)
        self.results: list[dict[str, Any]] = []
        self._file = (folder / "results.jsonl").open("w", encoding="utf-8", buffering=1)
        self._log = (folder / "log.txt").open("w", encoding="utf-8", buffering=1)

    def note(self, stage: str, case: str, **facts: Any) -> None:
        """Write one result down, and say it in a line."""
        result = {"stage": stage, "case": case, **facts}
        self.results.append(result)
        self._file.write(json.dumps(result) + "\n")
        said = facts.get("problem") or facts.get("said") or "ok"
        print(f"{stage}: {case}: {said}", flush=True)

    def seconds(self, stage: str) -> float:
        """What the stage may take, which shrinks while it runs if it is asked again."""
        return min(self._more * STAGES[stage], self.end - time.monotonic())

    def follow(
        self,
        command: Sequence[str],
        seconds: float,
        line: Callable[[str], object] = lambda _: None,
        *,
        how: int = signal.SIGKILL,
        **environment: str,
    ) -> tuple[int, bool]:
        """Run a command in the checkout, its output into the log and line by line to ``line``.

        how      the signal that it gets when its seconds are over; 20 seconds later it is killed
        returns  its exit code, and whether its time was up
        """
        self._log.write(f"\n$ {' '.join(command)}\n")
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        late = threading.Event()

        def stop(sent: int) -> None:
            late.set()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, sent)

        timers = [
            threading.Timer(seconds, stop, [how]),
            threading.Timer(seconds + 20, stop, [signal.SIGKILL]),
        ]
        for timer in timers:
            timer.start()
        try:
            assert process.stdout is not None
            for text in process.stdout:
                self._log.write(text)
                line(text.rstrip("\n"))
            return process.wait(), late.is_set()
        finally:
            for timer in timers:
                timer.cancel()
            if process.poll() is None:  # this process is being interrupted
                stop(signal.SIGKILL)

    def summarise(self) -> None:
        (self.folder / "summary.md").write_text(_summary(self.results), encoding="utf-8")


def _cases(check: Check, stage: str) -> None:
    """A stage of cases in a child, started anew behind a case that took the process with it."""
    until = time.monotonic() + check.seconds(stage)
    begun, total, skip, name = -1, 0, 0, ""

    def line(text: str) -> None:
        nonlocal begun, total, name
        if not text.startswith("@"):
            return
        said = json.loads(text[1:])
        if "begin" in said:
            begun, total, name = said["begin"], said["of"], said["case"]
        else:
            check.note(stage, said.pop("case"), **said)
            name = ""

    while True:
        name = ""
        command = [sys.executable, "-m", "fwp_rl.bench.gpu_cases", stage, "--skip", str(skip)]
        command += ["--device", check.device, "--ops", *check.ops]
        code, late = check.follow(command, until - time.monotonic(), line)
        if code == 0:
            return
        if late:
            check.note(stage, name or "the rest", problem="not finished: the time was up")
            return
        if name or begun < skip:  # died in a case, or before the first
            check.note(stage, name or "start", problem=f"the process ended with exit code {code}")
        if begun < skip or begun + 1 >= total:
            return
        skip = begun + 1


def _tests(check: Check, stage: str) -> None:
    """``pytest -m gpu``; a failure is told as it comes."""
    counts: dict[str, int] = {}

    def line(text: str) -> None:
        found = re.search(r"(\S+\.py::.*?) (PASSED|FAILED|ERROR|SKIPPED)\b", text)
        if found is None:
            return
        test, result = found.groups()
        counts[result] = counts.get(result, 0) + 1
        if result in ("FAILED", "ERROR"):
            check.note(stage, test.partition("::")[2], problem=result.lower())

    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-p", "no:cacheprovider"]
    code, late = check.follow(command, check.seconds(stage), line)
    said = ", ".join(f"{n} {result.lower()}" for result, n in sorted(counts.items())) or "no test"
    facts: dict[str, Any] = {"said": said, "counts": counts}
    if late or code != 0:
        facts["problem"] = f"{said}; " + ("the time was up" if late else f"exit code {code}")
    check.note(stage, "pytest -m gpu", **facts)


def _sanitizer(check: Check, stage: str) -> None:
    """One tool of compute-sanitizer on one op after the other, as far as its time goes."""
    if shutil.which("compute-sanitizer") is None:
        check.note(stage, "all", said="left out: compute-sanitizer is not installed")
        return
    until = time.monotonic() + check.seconds(stage)
    for op in check.ops:
        tail: list[str] = []
        command = ["compute-sanitizer", "--tool", stage, "--error-exitcode", "9"]
        command += ["--print-limit", "5", sys.executable, "-m", "pytest", "-m", "gpu", "-x", "-q"]
        command += [str(ROOT / "tests/cuda/test_gpu.py"), "-p", "no:cacheprovider"]
        command += ["-k", f"test_part_of_the_matrix and {op}"]
        if (seconds := until - time.monotonic()) < LEAST_SECONDS:
            check.note(stage, op, problem="not begun: the time was up")
            continue
        # without torch's pool, where a kernel would overrun its buffer into another one
        code, late = check.follow(command, seconds, tail.append, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        summaries = [text.strip("= ") for text in tail if "SUMMARY" in text]
        facts = {"said": summaries[-1] if summaries else "no summary"}
        if late:
            facts["problem"] = "not finished: the time was up"
        elif code != 0:
            facts["problem"] = f"exit code {code}: {facts['said']}"
        check.note(stage, op, **facts)


TRAIN: Final = """
import sys
import fwp_rl
if {root}: fwp_rl.__path__.append({root})  # agents/ of a checkout that is not installed
from fwp_rl.cli import main
main(sys.argv[1:])
"""


def _agents(check: Check, stage: str) -> None:
    """Short trainings from Atari's screens (on a CPU, of recall), stopped as a user would stop."""
    needed = ("envpool", "tyro", "gymnasium", "pydantic", "safetensors", "tensorboard", "yaml")
    if missing := [name for name in needed if not _installed(name)]:
        check.note(stage, "all", said=f"left out: {', '.join(missing)} not installed")
        return
    code = TRAIN.format(root=repr(None if _installed("fwp_rl.agents") else str(ROOT)))
    runs = TRAINING[check.device]
    until = time.monotonic() + check.seconds(stage)
    for n, (name, arguments) in enumerate(runs.items()):
        seconds = (until - time.monotonic()) / (len(runs) - n) - 5
        if seconds < LEAST_SECONDS:
            check.note(stage, name, problem="not begun: the time was up")
            continue
        folder = check.folder / "runs" / str(n)
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-c", code, "train", *arguments, "--device", check.device]
        command += ["--plain", "--run-dir", str(folder.resolve())]
        ended, late = check.follow(command, seconds, how=signal.SIGINT)
        facts = _training_facts(folder / "metrics.jsonl")
        if not facts or (ended != 0 and not late):
            facts["problem"] = f"exit code {ended}, see log.txt"
        check.note(stage, name, **facts)


def _installed(module: str) -> bool:
    with suppress(ImportError):
        return importlib.util.find_spec(module) is not None
    return False


def _training_facts(metrics: Path) -> dict[str, Any]:
    """The medians over the last half of a run, once it is warm."""
    rows = (
        [json.loads(text) for text in metrics.read_text().splitlines()] if metrics.exists() else []
    )
    if not rows:
        return {}
    warm = rows[len(rows) // 2 :]

    def median(name: str) -> float | None:
        values = [row[name] for row in warm if row.get(name) is not None]
        return statistics.median(values) if values else None

    shares = sorted({name for row in warm for name in row if name.startswith("time/")})
    deviations = [row.get("policy/ratio_deviation") or 0.0 for row in rows]
    speed = median("charts/steps_per_second") or 0.0
    return {
        "steps": rows[-1]["step"],
        "steps_per_second": speed,
        "shares": {name.removeprefix("time/"): median(name) for name in shares},
        "lag": median("policy/lag_mean"),
        "ratio_deviation": max(deviations),
        "said": f"{speed:,.0f} environment steps/s, {rows[-1]['step']:,} steps",
    }


RUN: Final[dict[str, Callable[[Check, str], None]]] = {
    "smoke": _cases,
    "tests": _tests,
    "times": _cases,
    "policy": _cases,
    "memcheck": _sanitizer,
    "racecheck": _sanitizer,
    "agents": _agents,
}


def _summary(results: list[dict[str, Any]]) -> str:
    """Markdown: where it ran, what failed, and the tables."""
    facts = next((x for x in results if x["stage"] == "start"), {})
    lines = [f"{name}: {value}" for name, value in facts.get("circumstances", {}).items()]
    problems = [x for x in results if "problem" in x]
    lines += ["", f"{len(results) - len(problems)} results, {len(problems)} problems.", ""]
    lines += [f"- **{x['stage']}, {x['case']}**: {x['problem']}" for x in problems]
    lines += [
        f"- {x['stage']}, {x['case']}: {x['said']}"
        for x in results
        if x["stage"] not in ("start", "times", "smoke") and "said" in x and "problem" not in x
    ]
    return "\n".join([*lines, "", *_times_table(results)]) + "\n"


def _times_table(results: list[dict[str, Any]]) -> list[str]:
    times = [x for x in results if x["stage"] == "times" and "problem" not in x]
    speed = next((x["bytes_per_second"] for x in times if "bytes_per_second" in x), None)
    if speed is None:
        return []
    names = dict.fromkeys(
        name for x in times for name in x if name.endswith(("_forward", "_backward", "_graph"))
    )
    columns = [
        "op, dtype, (T, B, H, D)",
        "copy floor of forward",
        *(n.replace("_", " ") for n in names),
    ]
    lines = ["Milliseconds.", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for x in times:
        if "shape" not in x:
            continue
        floor = 1000 * x["moved_bytes"] / speed
        cells = [
            f"{value:.4f}" if isinstance(value := x.get(name, ""), float) else "-" for name in names
        ]
        lines.append(f"| {x['case']} | {floor:.4f} | {' | '.join(cells)} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m fwp_rl.bench.gpu``. Exit code 1 where something failed, 3 where smoke did."""
    parser = argparse.ArgumentParser(
        prog="python -m fwp_rl.bench.gpu",
        description="Show on a GPU what only a GPU can show; writes results as it goes.",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/gpu-DATE-TIME")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help=f"for all stages (default: {MINUTES})"
    )
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=list(STAGES), help="default: all"
    )
    parser.add_argument(
        "--ops", nargs="+", choices=OPS, default=list(OPS), help="for smoke, times and sanitizers"
    )
    parser.add_argument("--keep-going", action="store_true", help="even where smoke has failed")
    given = parser.parse_args(arguments)
    if not (status := backend_status()[fused(given.device)]).available:
        sys.exit(f"backend {fused(given.device)!r} is not available: {status.reason}")
    if not _installed("pytest") and "tests" in given.stages:
        sys.exit("pytest is not installed: pip install pytest, or name other --stages")
    sys.exit(_run(given))


def _run(given: argparse.Namespace) -> int:
    when = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = given.output or Path("runs", f"gpu-{when}")
    check = Check(folder, given.device, given.ops, given.minutes)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    check.note("start", "machine", circumstances=machine.facts(given.device) | {"date": date})
    for stage in given.stages:
        start = time.monotonic()
        if check.seconds(stage) < LEAST_SECONDS:
            check.note(stage, "all", problem="not begun: the time was up")
        else:
            RUN[stage](check, stage)
            check.note(stage, "seconds", said=f"{time.monotonic() - start:.0f}")
        check.summarise()
        if stage == "smoke" and _failed(check, stage) and not given.keep_going:
            print("smoke failed: the other stages are left out (--keep-going runs them)")
            return 3
    print(f"written to {check.folder}")
    return 1 if any(_failed(check, stage) for stage in given.stages) else 0


def _failed(check: Check, stage: str) -> bool:
    return any(x["stage"] == stage and "problem" in x for x in check.results)


if __name__ == "__main__":
    try:
        main()
    except BackendError as error:
        sys.exit(str(error))
