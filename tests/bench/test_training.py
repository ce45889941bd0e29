"""fwp-rl bench training: every agent is measured, and what is measured is written."""

import json
from pathlib import Path

import pytest

from fwp_rl.bench.commands import training
from fwp_rl.config import ConfigError


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["ppo", "impala"])
def test_an_agents_speed(agent: str, tmp_path: Path) -> None:
    file = tmp_path / "training.json"
    training(("feedforward", "delta_net"), agent=agent, iterations=1, rounds=1, output=file)
    result = json.loads(file.read_text())
    assert result["agent"] == agent
    for name in ("feedforward", "delta_net"):
        figures = result["median"][name]
        assert figures["steps_per_second"] > 0
        shares = [figures[key] for key in ("acting", "environment", "learning")]
        assert all(0 < share <= 1 for share in shares)
    assert ("core" in figures) == (agent == "ppo")


def test_no_iterations_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected 1 or more"):
        training(iterations=0)
