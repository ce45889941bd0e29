"""``fwp-rl bench training``, tiny, through the command line: every part is measured, the shares are
those of the parts, and nothing runs on afterwards."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from fwp_rl.bench.figures import run_stages
from fwp_rl.cli import main

pytestmark = pytest.mark.slow


def _check_floor(result: dict[str, Any], name: str) -> None:
    """The figures of a single round against what was measured in it."""
    ((run,), (parts,)) = result["runs"][name], result["floor"][name]
    figures = result["figures"][name]
    assert parts.keys() == {"emulator", "acting", "learning"}
    for part, splits in parts.items():
        assert min(splits.values()) > 0
        assert figures["floor"]["parts"][part] == min(splits.values())
        assert splits[figures["floor"]["splits"][part]] == min(splits.values())
    assert figures["floor"]["seconds"] == pytest.approx(sum(figures["floor"]["parts"].values()))
    assert figures["floor"]["share"]["value"] == pytest.approx(
        figures["floor"]["seconds"] / run["seconds"]
    )
    assert figures["floor"]["share"]["interval"] is None, "of one round"
    stages = run_stages(figures, actors=result["actors"])
    assert sum(stages.values()) == pytest.approx(run["seconds"])


def test_ppo_against_its_floor_and_beside_a_busy_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, picture, page = (tmp_path / name for name in ("ppo.json", "ppo.png", "page.md"))
    command = ["bench", "training", "--cores", "delta_net", "--quick", "--against-floor"]
    main([*command, "--beside=1", f"--output={file}", f"--figure={picture}"])
    said = capsys.readouterr().out
    result = json.loads(file.read_text())

    assert result["rounds"] == 1
    assert {"cores", "threads", "processor"} <= result["machine"].keys()
    (run,) = result["runs"]["delta_net"]
    assert run["steps_per_second"] > 0
    assert run["peak_memory"] > 50e6, "torch alone takes more"
    assert all(0 < run[stage] <= 1 for stage in ("acting", "environment", "learning"))
    assert run["core"] > 0
    _check_floor(result, "delta_net")

    beside = result["figures"]["delta_net"]["beside"]
    ((slow,), (alone,), (company,)) = (
        result["beside"]["delta_net"],
        result["control"]["alone"],
        result["control"]["beside"],
    )
    kept = slow["steps_per_second"] / run["steps_per_second"]
    assert beside["kept"]["value"] == pytest.approx(kept)
    assert beside["share"]["value"] == pytest.approx(kept / (company / alone))
    (pid,) = re.findall(r"beside 1 busy: (\d+)", said)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)

    assert picture.read_bytes().startswith(b"\x89PNG")
    tables = [line for line in said.splitlines() if line[:1] in "┏┃┡│└"]
    assert len(tables) > 12
    assert max(map(len, tables)) <= 80
    assert "…" not in said
    for words in ("Against the floor", "learning, 4 passes", "one team", "Beside 1 busy process"):
        assert words in said

    page.write_text("<!-- tables of ppo.json, without details -->\n<!-- end of tables -->\n")
    main(["bench", "tables", str(page)])
    made = page.read_text()
    share = result["figures"]["delta_net"]["floor"]["share"]["value"]
    assert f"{share:.2f} |\n" in made
    assert "one team" not in made, "a detail"


@pytest.mark.long
def test_impala_against_its_floor(tmp_path: Path) -> None:
    """And the deep network in float32."""
    file = tmp_path / "impala.json"
    command = "bench training --agent impala --encoder impala_resnet --cores lstm"
    options = "--precision float32 --quick --against-floor"
    main([*command.split(), *options.split(), f"--output={file}"])
    result = json.loads(file.read_text())
    assert (result["agent"], result["passes"], result["actors"]) == ("impala", 1, 2)
    assert not result["bfloat16"]
    _check_floor(result, "lstm")
