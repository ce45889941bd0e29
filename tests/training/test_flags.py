"""Selectors and flags on top of a preset."""

import pytest

from fwp_rl import agents
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.config import ConfigError
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.rnn import LSTMConfig
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.training.flags import apply_flags


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


def test_selecting_the_present_core_keeps_its_options() -> None:
    base = parse("--core.heads", "8")
    again = apply_flags(base, ["core:delta-net"], prog="fwp-rl", description="")
    assert again.core == DeltaNetConfig(heads=8)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["core:lstmm"], "Did you mean 'lstm'"),
        (
            ["--learning-rat", "1"],
            "there is no flag --learning-rat. Did you mean '--learning-rate'?",
        ),
        (["--core.headz", "1"], "Did you mean '--core.heads'"),
        (["core:lstm", "--core.heads", "4"], "there is no flag --core.heads"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(args: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(*args)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--num-envs", "many"], "num-envs"),
        (["--learning-rate", "nan"], "learning_rate: got nan, expected more than 0 to 1"),
        (["--num-envs", "-3"], "num_envs: got -3, expected 1 to 4096"),
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
