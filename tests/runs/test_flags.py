"""Selectors and flags on top of a preset."""

import contextlib
import itertools
from pathlib import Path

import pytest

from fwp_rl import agents
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.config import ConfigError
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.rnn import LSTMConfig
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.envs.gym import GymnasiumConfig
from fwp_rl.runs.arguments import run_command
from fwp_rl.runs.flags import apply_flags


def parse(*args: str) -> PPOConfig:
    config = apply_flags(agents.load_preset("quickstart"), args, prog="fwp-rl", description="")
    assert isinstance(config, PPOConfig)
    return config


def test_without_flags_the_preset_stays() -> None:
    assert parse() == agents.load_preset("quickstart")


def test_flags_and_selectors_in_any_order() -> None:
    config = parse(
        "--total-steps", "1_000", "core:lstm", "--env.game", "qbert", "--core.hidden-size=64",
        "--no-video",
    )  # fmt: skip
    assert config.total_steps == 1000
    assert config.core == LSTMConfig(hidden_size=64)
    assert config.env == AtariConfig(game="Qbert")
    assert not config.video


@pytest.mark.parametrize(
    ("args", "fire", "video"),
    [
        ([], None, True),
        (["--env.fire-reset", "false"], False, True),
        (["--env.fire_reset=No"], False, True),
        (["--env.no-fire-reset"], False, True),
        (["--env.fire-reset"], True, True),
        (["--env.fire-reset", "--video", "FALSE"], True, False),
        (["--env.fire-reset", "none", "--video=no"], None, False),
        (["--env.fire-reset", "Yes", "--no-video", "core:lstm"], True, False),
        (["--env.fire-reset", "true", "--video", "true"], True, True),
    ],
)
def test_truth_is_written_as_people_write_it(
    args: list[str], fire: bool | None, video: bool
) -> None:
    for protocol, default in (("classic", True), ("machado", False)):
        config = parse("--env.full-action-space=no", "--env.protocol", protocol, *args)
        assert isinstance(config.env, AtariConfig)
        assert config.env.rules.fire_reset == (default if fire is None else fire)
        assert config.video == video


@pytest.mark.parametrize(
    ("args", "field", "value"),
    [
        (["--total-steps", "1e6"], "total_steps", 1_000_000),
        (["--total_steps=2.5e+3"], "total_steps", 2_500),
        (["--learning-rate", "1e-4"], "learning_rate", 1e-4),
        (["--reward-clip", "none"], "reward_clip", None),
        (["--reward-clip=None"], "reward_clip", None),
        (["--reward_clip", "null"], "reward_clip", None),
        (["--run-dir", "none"], "run_dir", None),
        (["--run-dir", "1e6"], "run_dir", "1e6"),
    ],
)
def test_values_are_written_as_people_write_them(
    args: list[str], field: str, value: object
) -> None:
    assert getattr(parse(*args), field) == value
    assert parse("--core.gradient-horizon", "none", *args).core == DeltaNetConfig()


def test_arguments_of_a_gymnasium_environment() -> None:
    start = parse(
        "env:gymnasium", "encoder:mlp", "--env.id=FrozenLake-v1",
        "--env.kwargs", "map_name", "8x8", "is_slippery", "false", "success_rate", "0.5",
        "--no-video",
    )  # fmt: skip
    assert isinstance(start.env, GymnasiumConfig)
    assert start.env.kwargs == {"map_name": "8x8", "is_slippery": False, "success_rate": 0.5}
    args = ["--env.kwargs.is-slippery", "yes", "--env.kwargs.map_name=4x4"]
    env = apply_flags(start, args, prog="fwp-rl", description="").env
    assert isinstance(env, GymnasiumConfig)
    assert env.kwargs == {"map_name": "4x4", "is_slippery": True, "success_rate": 0.5}


def test_selecting_the_present_core_keeps_its_options() -> None:
    base = parse("--core.heads", "8")
    again = apply_flags(base, ["core:delta-net"], prog="fwp-rl", description="")
    assert again.core == DeltaNetConfig(heads=8)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["core:lstmm"], "Did you mean 'lstm'"),
        (["--lr", "1e-3"], "Did you mean '--learning-rate'?"),
        (["--gamma=0.9"], "Did you mean '--discount'?"),
        (["--ent-coef=0.1"], "Did you mean '--entropy-coefficient'?"),
        (["--max-grad-norm=0.1"], "Did you mean '--max-gradient-norm'?"),
        (["--total-timesteps=5"], "Did you mean '--total-steps'?"),
        (["--n-steps=5"], "Did you mean '--rollout-length'?"),
        (["--n-envs=5"], "Did you mean '--num-envs'?"),
        (["--game", "Pong"], "Did you mean '--env.game'?"),
        (["--track"], "Did you mean '--logger'?"),
        (
            ["--learning-rat", "1"],
            "there is no flag --learning-rat. Did you mean '--learning-rate'?",
        ),
        (["--env.no-fier-reset"], "Did you mean '--env.no-fire-reset'"),
        (["--core.headz", "1"], "Did you mean '--core.heads'"),
        (
            ["core:lstm", "--core.heads", "4"],
            "there is no flag --core.heads. It is an option of core:",
        ),
        (["core:lstm", "--core.window=4"], "It is an option of core:gtrxl"),
        (["--core", "lstm"], "there is no flag --core. Choose the core with core:lstm"),
        (["--core=Delta-Net"], "Choose the core with core:delta_net"),
        (["--core=lstn"], "Choose the core with core:NAME. Did you mean 'lstm'?"),
        (["--env", "recall"], "Choose the environment with env:recall"),
        (["--encoder"], "Choose the encoder with encoder:NAME"),
        (
            ["env:recall", "--env.game", "Pong"],
            "there is no flag --env.game. It is an option of env:atari",
        ),
        (["env:recall", "--env.no-fire-reset"], "It is an option of env:atari"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(args: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(*args)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--num-envs", "many"], "got 'many', expected a whole number"),
        (["--total-steps", "1.5"], "got '1.5', expected a whole number"),
        (["--total-steps", "1e-1"], "got '1e-1', expected a whole number"),
        (["--seed", "none"], "got 'none', expected a whole number"),
        (["--learning-rate", "nan"], "learning_rate: got nan, expected more than 0 to 1"),
        (["--num-envs", "-3"], "num_envs: got -3, expected 1 to 4096"),
        (["--env.fire-reset", "maybe"], "invalid choice 'maybe'"),
        (["--no-video", "true"], "Unrecognized options: true"),
        (["--video=perhaps"], "Unrecognized options: perhaps"),
        (["--env.game", "Brekout"], "Did you mean 'Breakout'"),
        (["--env.frame-stack", "0"], "frame_stack: got 0, expected 1 to 4"),
    ],
)
def test_a_bad_value_exits_with_code_2_and_the_range(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(*args)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in " ".join(said.replace("│", " ").split())


def test_help_shows_the_selected_core(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("core:lstm", "--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--core.hidden-size" in text
    assert "--core.heads" not in text


def command(source: Path, /, *, games: int | None = None, deep: bool = True, seed: int = 0) -> None:
    """Play so many games, and say in a first line that is somewhat long what is played with,
    and then some more.

    A paragraph of
    its own.

    Args:
        source: Where the policy is.
        games: Whole games, at least so many; the last of them is played to its end, whatever
            (1,000 or more) it takes.
        deep: As it was.
    """
    seen.append((source, games, deep, seed))


seen: list[tuple[Path, int | None, bool, int]] = []


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["x", "--games", "1e2", "--deep", "no"], (Path("x"), 100, False, 0)),
        (["--games=none", "x", "--seed", "1_000"], (Path("x"), None, True, 1000)),
        (["--no-deep", "x", "--games", "NULL"], (Path("x"), None, False, 0)),
    ],
)
def test_commands_read_values_as_configs_do(args: list[str], wanted: object) -> None:
    run_command(command, args, prog="play")
    assert seen.pop() == wanted


def test_an_unknown_flag_of_a_command_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="Did you mean '--games'"):
        run_command(command, ["x", "--game", "3"], prog="play")


def unfilled(text: str, width: int) -> list[str]:
    """Lines that end before they have to: the first word of the next one would have fitted."""
    found = []
    lines = [line.removeprefix("│ ").removesuffix("│").rstrip() for line in text.splitlines()]
    for line, after in itertools.pairwise(lines):
        indent = len(after) - len(after.lstrip())
        word = after.split()[0] if after.split() else ""
        if line and word and indent == len(line) - len(line.lstrip()) and word[0] not in "-╭╰─":
            room = width - 4 * text.startswith("│") - len(line)
            found += [line] if room > len(word) and not line.lstrip().startswith("-") else []
    return found


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("what", ["command", "config"])
def test_help_is_broken_where_the_terminal_ends(
    what: str, width: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with contextlib.suppress(SystemExit):
        if what == "config":
            parse("--help")
        else:
            run_command(command, ["--help"], prog="play")
    text = capfd.readouterr().out
    boxes = [line for line in text.splitlines() if line.startswith("│")]
    assert max(map(len, boxes)) <= width
    assert unfilled("\n".join(boxes), width) == []
    if what == "command":
        description = text.partition("usage:")[0]
        assert unfilled(description, width) == []
        assert max(map(len, description.splitlines())) <= width
        assert "\n\nA paragraph of its own.\n" in description
    assert "{None}" not in text
    assert "(default: None)" not in text, "there is one word for no value"
