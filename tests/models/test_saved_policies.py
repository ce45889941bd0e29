"""Policies that version 0.1.0 saved load, and act as they did: cores gained options since.

Each folder holds what its network answered then, which loading compares with what it answers now.
"""

from pathlib import Path

import pytest

from fwp_rl import load_policy

FOLDERS = sorted((Path(__file__).parent / "saved_by_0.1.0").iterdir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_policy_of_0_1_0_answers_as_it_did(folder: Path) -> None:
    core = load_policy(folder).config.core
    for option in ("scale_queries", "redraw_projection", "favor_epsilon"):
        assert not getattr(core, option, False)
