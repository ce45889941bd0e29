"""What becomes of the cells where nothing can be shown of them."""

import os
from contextlib import suppress

import pytest
from rich.console import Console

from fwp_rl.ablation.display import Display


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
