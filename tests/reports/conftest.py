"""Run directories that were never trained, to report on, and what a report holds."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fwp_rl import agents
from fwp_rl.cores import CORES, CoreConfig
from fwp_rl.envs.atari import AtariConfig, describe_protocol
from fwp_rl.envs.classic import ClassicConfig
from fwp_rl.models.encoders import MLPConfig, NatureCNNConfig
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.presets import config_to_dict

MakeRun = Callable[..., Path]


def evaluation(task: str, mean: float, *, step: int, **protocol: Any) -> dict[str, Any]:
    environment = describe_protocol(AtariConfig(game=task)) if task == "Breakout" else {}
    return {
        "step": step,
        "protocol": {
            "games": 30,
            "actions": "sampled",
            "checkpoint": "last",
            **protocol,
        },
        "summary": {"task": task, "mean": mean, "interval": [mean - 1, mean + 1], "success": None},
        "environment": environment,
        "created": "2026-01-01T00:00:00+00:00",
    }


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "tables" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


class Parsed(HTMLParser):
    """Tags that are still open, addresses, and the text."""

    VOID = ("meta", "link", "img", "source", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [(tag, v or "") for k, v in attrs if k in ("src", "href", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def write_run(
    folder: Path,
    core: str = "delta_net",
    task: str = "Catch",
    seed: int = 1,
    score: float | None = 0.5,
    core_config: CoreConfig | None = None,
    **changes: Any,
) -> Path:
    atari = task == "Breakout"
    config = replace(
        agents.load_preset("recall"),
        env=AtariConfig(game=task) if atari else ClassicConfig(task="Catch-v0"),
        encoder=NatureCNNConfig(features=8) if atari else MLPConfig(hidden_sizes=(8,)),
        core=core_config or CORES[core](),
        seed=seed,
        total_steps=1000,
        **changes,
    )
    path = folder / f"{task}-{core}-s{seed}"
    run = RunDirectory.create(path)
    run.write_config(config_to_dict(config))
    run.write_status("finished", step=1000, total=1000)
    draws = np.random.default_rng(seed)
    with run.metrics.open("w") as file:
        for step in range(100, 1001, 100):
            row = {"step": step, "time": step / 50, "charts/episode_return": draws.normal()}
            file.write(json.dumps(row) + "\n")
    if score is not None:
        (path / "evaluations").mkdir()
        result = evaluation(task, score, step=1000)
        (path / "evaluations" / "last.json").write_text(json.dumps(result))
    return path


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(*args: Any, folder: Path | None = None, **changes: Any) -> Path:
        return write_run(folder or tmp_path / "runs", *args, **changes)

    return make
