"""What lists read from YAML is what the configs say, and how lists are shown."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from fwp_rl import agents
from fwp_rl.cores import CORES
from fwp_rl.listing import LISTS, Listing, preset_rows, show
from fwp_rl.models import ENCODERS
from fwp_rl.runs import yaml_files
from fwp_rl.runs.config import AGENTS
from fwp_rl.runs.yaml_files import preset_names
from fwp_rl.terminal import console_for


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


def printed(listing: Listing, *, width: int | None) -> list[str]:
    """The lines of a list in a terminal of that width, or in a pipe."""
    out = io.StringIO()
    terminal = Console(
        file=out, force_terminal=True, width=width, color_system=None, markup=False, highlight=False
    )
    show(listing, console_for(out) if width is None else terminal)
    return out.getvalue().splitlines()


SENTENCE = "a sentence with words, " * 4 + "and an end"
LISTING = Listing(
    columns=("name", "what", "steps", "score"),
    rows=[(f"preset_of_{n}", SENTENCE, 10**n, None) for n in range(8)],
    hint="Use one:",
    command="fwp-rl use preset_of_1 --with-a-flag that-is-longer-than-some-terminals",
    spare=("score", "steps"),
)


@pytest.mark.parametrize("width", [20, 40, 50, 60, 80, 200])
def test_a_list_fits_its_terminal_and_what_is_copied_stays_whole(width: int) -> None:
    lines = printed(LISTING, width=width)
    assert all(len(line) <= width or LISTING.command in line for line in lines)
    assert sum(any(f"preset_of_{n}" in line for line in lines) for n in range(8)) == 8
    assert any(LISTING.command in line for line in lines)
    hidden = [name for name in LISTING.columns if not any(name in line for line in lines)]
    assert width < 40 or not hidden, "a column is shown, or said not to be"
    assert any("1,000,000" in line for line in lines) == (width >= 60)


def test_a_list_is_whole_in_a_pipe() -> None:
    lines = printed(LISTING, width=None)
    assert [line.rstrip() for line in lines[1:9]] == [
        f"preset_of_{n}  {SENTENCE}  {10**n:>10,}" for n in range(8)
    ]


@pytest.mark.parametrize("what", LISTS)
def test_every_list_is_json_too(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    LISTS[what](as_json=True)
    things = json.loads(capsys.readouterr().out)
    assert len(things) >= 3
    assert len({tuple(thing) for thing in things}) == 1, "each has all that the list tells"
    names = [next(iter(thing.values())) for thing in things]
    assert len(set(names)) == len(names)
    if what == "games":
        (pong,) = [thing for thing in things if thing["game"] == "Pong"]
        assert pong == {
            "game": "Pong", "actions": 6, "all_actions": 18, "random": -20.7, "human": 14.6,
        }  # fmt: skip
    if what == "presets":
        assert all(thing["what"] for thing in things), "each says what it is for"
