"""What surrounds a training loop; the loops' own tests are in tests/agents."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fwp_rl.agents import ppo
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.envs.atari import PROTOCOLS, AtariConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.models.encoders import MLPConfig, NatureCNNConfig
from fwp_rl.models.policy import Policy
from fwp_rl.training.session import TrainingSession

TINY = PPOConfig(
    env=RecallConfig(),
    encoder=MLPConfig(hidden_sizes=(8,)),
    core=FeedforwardConfig(),
    num_envs=2,
    minibatches=2,
    rollout_length=8,
    total_steps=30,
    evaluation_games=0,
    plain=True,
)


def test_an_environment_that_cannot_be_made_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(*_: object, **__: object) -> None:
        raise ImportError("requires the system Qt 5 runtime")

    monkeypatch.setattr(RecallConfig, "make", make)
    with pytest.raises(ImportError, match="Qt 5"):
        ppo.train(replace(TINY, run_dir=str(tmp_path / "run")))
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_stays_what_it_was_where_its_environment_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ppo.train(replace(TINY, run_dir=str(tmp_path / "run")))
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()}

    def make(*_: object, **__: object) -> None:
        raise ImportError("requires the system Qt 5 runtime")

    monkeypatch.setattr(RecallConfig, "make", make)
    with pytest.raises(ImportError, match="Qt 5"):
        ppo.train(replace(TINY, total_steps=60), resume=run)
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()} == before


def begin(config: PPOConfig, *, resume: Path | None = None) -> Path:
    """Start or resume a run, and train nothing."""
    with TrainingSession(config, resume=resume) as session:
        policy = Policy(config, config.env.spec())
        optimizer = torch.optim.Adam(policy.parameters())
        session.begin(policy, optimizer)
        return session.path


def test_the_terms_of_play_are_told_at_the_start_and_settled_rules_are_the_protocols(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    atari = replace(
        TINY,
        env=AtariConfig(game="Pong", protocol="machado_2018"),
        encoder=NatureCNNConfig(),
        run_dir=str(tmp_path / "run"),
    )
    run = begin(atari)
    said = " ".join(capsys.readouterr().out.split())
    assert "Protocol: machado_2018 (frame_skip 5, full_action_space True, sticky" in said
    assert "frame_skip: 5" in (run / "config.yaml").read_text()
    explicit = AtariConfig(game="Pong", protocol="machado_2018", **vars(PROTOCOLS["machado_2018"]))
    assert begin(replace(atari, env=explicit), resume=run) == run
