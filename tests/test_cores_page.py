"""docs/cores.md does what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fwp_rl.cores import CORES
from fwp_rl.cores.cost import cost
from fwp_rl.runs.metrics import read_metrics

PAGE = (Path(__file__).parents[1] / "docs" / "cores.md").read_text()


def test_every_core_stands_in_both_tables() -> None:
    equations, costs = PAGE.split("## What they cost")
    for name in CORES:
        assert f"`{name}`" in equations
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", costs, re.MULTILINE)
    found = {name: tuple(int(x.replace(",", "")) for x in numbers) for name, *numbers in rows}
    assert found == {name: cost(CORES[name](), 257) for name in CORES}


def test_the_example_core_trains_from_the_command_line(tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(source.splitlines()) <= 40
    (tmp_path / "leaky.py").write_text(source)
    run = tmp_path / "run"
    arguments = [
        *("train", "recall", "core:leaky", "--core.heads=2", "--core.hidden-size=16"),
        *("--total-steps=400", "--num-envs=8", "--minibatches=2", "--rollout-length=16"),
        *("--evaluation-games=8", "--plain", f"--run-dir={run}"),
        "--import=leaky",
    ]
    command = [sys.executable, "-m", "fwp_rl", *arguments]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert max(row["policy/ratio_deviation"] for row in read_metrics(run / "metrics.jsonl")) < 1e-4
    assert list((run / "evaluations").glob("*.json"))


@pytest.mark.parametrize("name", CORES)
def test_a_core_explains_itself(name: str) -> None:
    summary = (CORES[name].__doc__ or "").splitlines()[0]
    assert 20 < len(summary) < 90
    assert not summary.startswith(CORES[name].__name__)  # what dataclass writes where there is none
