from pathlib import Path

import numpy as np
import pytest

from fwp_rl.reports.video import write_video


@pytest.fixture
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GIF of four frames, 20 wide and 12 high."""
    frames = [np.full((12, 20, 3), 40 * i, np.uint8) for i in range(4)]
    return write_video(frames, tmp_path_factory.mktemp("clip") / "clip.gif", 10)
