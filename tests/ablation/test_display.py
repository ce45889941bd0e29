"""What is shown of the cells, and what becomes of them where nothing can be."""

import io
import os
from contextlib import suppress
from dataclasses import replace

import pytest
from rich.console import Console

from fwp_rl import agents  # noqa: F401  # fills the registry of agents
from fwp_rl.ablation.display import Display, Row
from fwp_rl.ablation.folder import CellProgress
from fwp_rl.ablation.grid import expand


def full_disk():
    return open("/dev/full", "w")


def pipe_without_a_reader():
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no full device")
@pytest.mark.parametrize("output", [full_disk, pipe_without_a_reader])
def test_what_cannot_be_shown_does_not_end_the_cells(output):
    file, stdout = output(), os.dup(1)  # rich turns stdout off, where a pipe is broken
    try:
        with Display(title="grid", plain=True, console=Console(file=file)) as display:
            display.update([], None, final=True)
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        with suppress(OSError):  # it tries once more
            file.close()


def rows(*progress):
    (cell, *_) = expand({"preset": "recall", "axes": {"core": ["gru"]}}, source="g")
    return [
        Row(cell=replace(cell, name=f"gru-{n}"), state="running", progress=each)
        for n, each in enumerate(progress)
    ]


@pytest.mark.parametrize("width", [30, 50, 60, 80, 120])
def test_the_table_fits_its_terminal_and_names_stay_whole(width):
    out = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    trained = CellProgress(step=60_000, seconds=9.0, rate=1234.5, episode_return=0.5)
    with Display(title="x", console=out) as display:
        display.update(rows(CellProgress(), trained), None)
    lines = out.file.getvalue().splitlines()
    assert any("gru-1 " in line and "0.5" in line for line in lines)
    assert any("1,234 steps/s" in line for line in lines) == (width >= 80)


def test_a_cell_that_is_trained_and_not_finished_is_being_evaluated():
    out = Console(file=io.StringIO(), width=200)
    done = CellProgress(step=100_352, seconds=9.0, rate=1234.5)
    with Display(title="x", plain=True, console=out) as display:
        display.update(rows(done), None)
    (line,) = [line for line in out.file.getvalue().splitlines() if "gru-0" in line]
    assert "evaluating" in line
    assert "0:00:00" not in line
