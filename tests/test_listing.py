"""What lists read from YAML is what the configs say."""

from pathlib import Path

import pytest

from fwp_rl import agents
from fwp_rl.cores import CORES
from fwp_rl.listing import preset_rows
from fwp_rl.models import ENCODERS
from fwp_rl.runs import yaml_files
from fwp_rl.runs.config import AGENTS
from fwp_rl.runs.yaml_files import preset_names


def expected(name: str, source: str | Path) -> tuple[str, str, str, str, str, int]:
    config = agents.load_preset(source)
    return (
        name,
        AGENTS.name_of(type(config)),
        config.env.spec().name,
        CORES.name_of(type(config.core)),
        ENCODERS.name_of(type(config.encoder)),
        config.total_steps,
    )


def test_presets_are_listed_as_they_are_loaded() -> None:
    assert list(preset_rows()) == [expected(name, name) for name in preset_names()]


@pytest.mark.parametrize(
    "text",
    [
        "agent: PPO\nenv: recall\nencoder: mlp\ncore: {name: Delta-Net, layers: 1}\ntotal_steps: 5",
        "agent: impala\nenv: {name: minigrid, task: MemoryS9}\nencoder: mlp",  # the rest by default
        "agent: ppo\nenv: {game: Pong}\ncore: {heads: 2}\nencoder: nature_cnn\ntotal_steps: 5",
    ],
)
def test_what_a_preset_leaves_to_its_default_is_listed(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setattr(yaml_files, "configs_dir", lambda: tmp_path)
    assert list(preset_rows()) == [expected("mine", tmp_path / "mine.yaml")]
