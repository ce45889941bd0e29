"""Damaged and hostile files for every reader, in a process that may not take much.

    python fuzzer.py FOLDER SECONDS SEED

FOLDER holds a run in ``run``. Prints one line of JSON: reader → inputs, and how many it refused.
What ends the process otherwise lies in FOLDER/input, and its reader's name in FOLDER/reader.
"""

import json
import random
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import fwp_rl.agents  # noqa: F401 (readers of configs look them up)
from fwp_rl.ablation.grid import load_grid
from fwp_rl.config import ConfigError
from fwp_rl.registry import UnknownNameError
from fwp_rl.reports.records import read_records
from fwp_rl.reports.sources import find_runs
from fwp_rl.resources import configs_dir
from fwp_rl.runs.checkpoint import load_checkpoint, newest_good
from fwp_rl.runs.directory import RunDirectory, RunError
from fwp_rl.runs.files import CheckpointError, _seal, read_json
from fwp_rl.runs.metrics import MetricsLogger, last_rows, read_metrics
from fwp_rl.runs.policy import load_saved
from fwp_rl.runs.presets import load_preset
from fwp_rl.runs.results import paper_evaluation, score

OURS = (ConfigError, UnknownNameError, CheckpointError, RunError)
MEMORY = 2 << 30
"""Bytes beyond what the process has at its start."""
SECONDS = 20
"""Of computing, for one input, on any machine."""
LONGEST = 2000
"""Letters of a message: one line, or a few."""

TOKENS = [
    b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"-Infinity", b"9" * 400, b"[]", b"{}", b'""',
    b"[" * 3000, b'{"a":' * 3000, b"&a ", b"*a", b"<<: *a", b"!!python/object:os.system",
    b"!!int x", b"\x00", b"\xff\xfe", b"\r\n", b"\n", b"../", b"/etc/passwd", b"'", b'"', b": ",
    b"- ", b"\t",
    b"2001-13-45", b"1_0", b"$x^$", b"<script>", b"\xed\xa0\x80", b"{", b"}", b"[", b"]", b",",
]  # fmt: skip
VALUES = [
    None, True, -1, 0, 1.5, 2**63, 10**400, "", "x" * 5000, "../..", "\ud800", [], {}, [[]],
    [None] * 50, {"": None}, {"name": []}, 1e308, "NaN", "lstm", [1, "a"], 10**12,
]  # fmt: skip


def bytes_changed(draw: random.Random, data: bytes) -> bytes:
    """One to four bytes, cuts, doublings or tokens."""
    for _ in range(draw.randint(1, 4)):
        at, kind = draw.randrange(len(data) + 1), draw.randrange(6)
        end = min(len(data), at + draw.choice([1, 1, 4, 40, 400]))
        if kind == 0 and data:
            data = data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at]
        elif kind == 2:
            data = data[:at] + data[end:]
        elif kind == 3:
            data = data[:end] + data[at:]
        elif kind == 4:
            data = data[:at] + draw.choice(TOKENS) + data[at:]
        else:
            data = data[:at] + draw.choice(TOKENS) + data[end:]
    return data


def value_changed(draw: random.Random, value: object) -> object:
    """A value in a tree of JSON becomes another, or goes, or gets a neighbour."""
    inside = isinstance(value, (dict, list)) and value
    if not inside or draw.random() < 0.15:
        return draw.choice(VALUES)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))  # type: ignore
    key, kind = draw.choice(keys), draw.random()
    copy = value.copy()  # type: ignore[attr-defined]
    if kind < 0.1:
        del copy[key]
    elif kind < 0.2 and isinstance(copy, dict):
        copy[draw.choice(["x", "", "name", "step", str(key)])] = draw.choice(VALUES)
    else:
        copy[key] = value_changed(draw, value[key])  # type: ignore[index]
    return copy


def changed(draw: random.Random, data: bytes) -> bytes:
    """Of a JSON object half the time a value, with a seal that holds; else bytes."""
    if data.startswith(b"{") and draw.random() < 0.6:
        try:
            value = value_changed(draw, json.loads(data))
        except ValueError:
            return bytes_changed(draw, data)
        if isinstance(value, dict) and "seal" in value:
            value.pop("seal")
            value["seal"] = _seal(value)
        return json.dumps(value).encode(errors="surrogatepass")
    return bytes_changed(draw, data)


def log(run: Path) -> None:
    with MetricsLogger(run, start_step=100, warn=lambda text: None) as logger:
        logger.log(101, {"x": 1.0})


def readers(run: Path) -> dict[str, tuple[Path, Callable[[], object]]]:
    """Name → the file that is changed, and what reads it."""
    directory = RunDirectory(run)
    checkpoint = sorted(directory.checkpoints.iterdir())[-1]
    (evaluation,) = directory.evaluations.glob("*.json")

    def quiet(text: str) -> None: ...

    def report() -> object:
        return read_records([run.parent])

    return {
        "preset": (run / "fuzzed.yaml", lambda: load_preset(run / "fuzzed.yaml")),
        "grid": (run / "grid.yaml", lambda: load_grid(run / "grid.yaml")),
        "config.yaml": (directory.config, lambda: (load_preset(directory.config), report())),
        "policy/config.json": (run / "policy/config.json", lambda: load_saved(run).env),
        "policy/manifest.json": (run / "policy/manifest.json", lambda: load_saved(run).env),
        "policy weights": (run / "policy/policy.safetensors", lambda: load_saved(run).env),
        "manifest.json": (
            checkpoint / "manifest.json",
            lambda: (newest_good(directory.checkpoints, warn=quiet), load_saved(checkpoint)),
        ),
        "state.json": (checkpoint / "state.json", lambda: load_checkpoint(checkpoint)),
        "status.json": (
            directory.status,
            lambda: (directory.state(), score(directory), report(), directory.read_status()),
        ),
        "metrics.jsonl": (
            directory.metrics,
            lambda: (
                read_metrics(directory.metrics, limit=100),
                last_rows(directory.metrics),
                report(),
                log(run),
            ),
        ),
        "evaluation": (
            evaluation,
            lambda: (score(directory), paper_evaluation(directory), report()),
        ),
        "wandb.json": (run / "wandb.json", lambda: read_json(run / "wandb.json")),
        "ablation.json": (
            run.parent / "ablation.json",
            lambda: (find_runs([run.parent]), report()),
        ),
    }


def limit_memory() -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))


def main(folder: Path, seconds: float, seed: int) -> None:
    run = folder / "ablation" / "run"
    shutil.copytree(folder / "run", run)
    (run / "fuzzed.yaml").write_bytes((configs_dir() / "recall.yaml").read_bytes())
    (run / "grid.yaml").write_bytes((configs_dir() / "ablations/cores_quick.yaml").read_bytes())
    (run / "wandb.json").write_text('{"id": "abc123"}')
    cell = {"name": "run", "labels": {"core": "lstm", "seed": "1"}, "run": "run"}
    ablation = {"schema": 1, "name": "a", "source": "a.yaml", "axes": ["core"], "cells": [cell]}
    (run.parent / "ablation.json").write_text(json.dumps(ablation))
    draw, counts = random.Random(seed), {}
    all_readers = readers(run)
    good = {name: file.read_bytes() for name, (file, _) in all_readers.items()}
    for _, read in all_readers.values():
        read()  # what is imported at first use is no part of an input's cost
    limit_memory()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        name = draw.choice(list(all_readers))
        file, read = all_readers[name]
        data = changed(draw, good[name])
        (folder / "input").write_bytes(data)
        (folder / "reader").write_text(name)
        file.write_bytes(data)
        count = counts.setdefault(name, [0, 0])
        count[0] += 1
        spent = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + SECONDS, resource.RLIM_INFINITY))
        try:
            read()
        except OURS as error:
            count[1] += 1
            if not 0 < len(str(error)) < LONGEST:
                raise RuntimeError(f"a message of {len(str(error))} letters") from error
        file.write_bytes(good[name])
    print(json.dumps(counts))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
