"""Any bytes in any file of a run: what was saved is read, or one line says why not."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from .mutations import KINDS, mutate
from .subjects import OLDER, check, make_run, weights_of

MARATHON = Path(__file__).with_name("marathon.py")
MUTATIONS = os.environ.get("FWP_RL_MUTATIONS", "2000")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faults") / "run"
    make_run(path)
    return path


def test_some_mutations_of_each_kind(run: Path, tmp_path: Path) -> None:
    truth, done, refused = weights_of(run), set(), 0
    assert len(KINDS) >= 20
    for seed in range(60):
        damaged = tmp_path / "damaged"
        shutil.copytree(run, damaged)
        what = mutate(damaged, random.Random(seed), spare=[damaged / OLDER])
        try:
            refused += check(damaged, truth).refused > 0
        except BaseException as error:
            raise AssertionError(f"mutation {seed}: {what}") from error
        done.add(what.split()[0])
        shutil.rmtree(damaged)
    assert refused > 20
    assert len(done) >= 20


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the process's size")
def test_a_great_many_mutations_in_little_memory_and_time(
    tmp_path: Path, record: Callable[[str, Mapping[str, Any]], None]
) -> None:
    result = subprocess.run(
        [sys.executable, str(MARATHON), str(tmp_path), MUTATIONS], capture_output=True, text=True
    )
    assert result.returncode == 0, f"{result.stdout[-300:]}\n{result.stderr[-3000:]}"
    record("mutations", json.loads(result.stdout.splitlines()[-1]))
