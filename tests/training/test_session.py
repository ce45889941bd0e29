"""What surrounds a training loop; the loops' own tests are in tests/agents."""

import json
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from fwp_rl.agents import ppo
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.envs.atari import PROTOCOLS, AtariConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.evaluation import evaluate
from fwp_rl.models.encoders import MLPConfig, NatureCNNConfig
from fwp_rl.models.policy import Policy
from fwp_rl.runs.checkpoint import (
    checkpoint_path,
    checkpoint_steps,
    load_checkpoint,
    save_checkpoint,
)
from fwp_rl.runs.directory import RunError
from fwp_rl.runs.identity import from_preset
from fwp_rl.runs.presets import load_preset
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


def test_a_run_knows_itself(tmp_path: Path) -> None:
    with from_preset("recall"):
        run = ppo.train(replace(TINY, run_dir=str(tmp_path / "run")))
    identity = json.loads((run / "status.json").read_text())["run"]
    assert identity["preset"] == "recall"
    assert identity["command"] == shlex.join(sys.orig_argv)
    assert {"id", "created", "commit"} <= identity.keys()
    ppo.train(replace(TINY, total_steps=60), resume=run)
    status = json.loads((run / "status.json").read_text())
    assert status["run"]["id"] == identity["id"], "a resumed run is the same run"
    assert (identity["sessions"], status["run"]["sessions"]) == (1, 2)
    assert status["machine"]["threads"] == torch.get_num_threads()
    assert evaluate(run, games=1)["run"]["id"] == identity["id"]
    other = ppo.train(replace(TINY, run_dir=str(tmp_path / "other")))
    assert json.loads((other / "status.json").read_text())["run"]["id"] != identity["id"]


def test_a_config_that_was_edited_is_refused_at_resume(tmp_path: Path) -> None:
    run = ppo.train(replace(TINY, num_envs=4, run_dir=str(tmp_path / "run")))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("discount: 0.99", "discount: 0.9"))
    edited = load_preset(str(run / "config.yaml"))
    with pytest.raises(RunError, match=r"says discount = 0.9, .*step_.* was trained with 0.99"):
        ppo.train(replace(edited, total_steps=60), resume=run)
    fields = yaml.safe_load(text)
    cut = yaml.safe_dump({name: fields[name] for name in ("agent", "encoder", "core", "env")})
    (run / "config.yaml").write_text(cut)
    with pytest.raises(RunError, match="was trained with"):
        ppo.train(load_preset(str(run / "config.yaml")), resume=run)
    (run / "config.yaml").write_text(text.replace("total_steps: 30", "total_steps: 40"))
    ppo.train(load_preset(str(run / "config.yaml")), resume=run)


def test_the_checkpoints_of_another_run_are_refused_at_resume(tmp_path: Path) -> None:
    run, other = (ppo.train(replace(TINY, run_dir=str(tmp_path / name))) for name in ("a", "b"))
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(other / "checkpoints", run / "checkpoints")
    ids = [json.loads((path / "status.json").read_text())["run"]["id"] for path in (other, run)]
    with pytest.raises(RunError, match=f"is of run {ids[0]}, .* is of run {ids[1]}"):
        ppo.train(replace(TINY, total_steps=60), resume=run)


@pytest.mark.parametrize("damage", ["{", '{"started": 3, "run": 7}', "[" * 100_000, None])
def test_a_damaged_status_is_written_anew(damage: str | None, tmp_path: Path) -> None:
    run = ppo.train(replace(TINY, run_dir=str(tmp_path / "run")))
    identity = json.loads((run / "status.json").read_text())["run"]["id"]
    if damage is None:
        (run / "status.json").unlink()
    else:
        (run / "status.json").write_text(damage)
    ppo.train(replace(TINY, total_steps=60), resume=run)
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "finished"
    assert status["run"]["id"] == identity, "the checkpoint knows it"


def test_three_checkpoints_in_a_row_that_cannot_be_written_end_a_run(tmp_path: Path) -> None:
    """Two do not: the run directory is away for a while, and then for good."""
    config = replace(TINY, run_dir=str(tmp_path / "run"), checkpoint_minutes=1e-9)
    run, away, updates = tmp_path / "run", tmp_path / "away", []

    def learn() -> None:
        with TrainingSession(config) as session:
            policy = Policy(config, config.env.spec())
            session.begin(policy, torch.optim.Adam(policy.parameters()))
            for update in range(10):
                updates.append(update)
                if update in (3, 6):
                    run.rename(away)
                if update == 5:
                    away.rename(run)
                session.log(8, [], {})
                session.save_if_due()

    with pytest.raises(RunError, match="3 checkpoints in a row could not be written"):
        learn()
    assert updates[-1] == 8
    assert not run.exists()
    assert max(checkpoint_steps(away / "checkpoints")) == 48


@pytest.mark.parametrize(
    "wrong", [{}, {"games": "7"}, {"games": 7, "blocks": 3}, {"games": 7, "milestone": -1}]
)
def test_a_checkpoint_that_cannot_be_gone_on_from_leaves_the_one_before(
    wrong: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its seal is good: somebody has made it so."""
    config = replace(TINY, run_dir=str(tmp_path / "run"), checkpoint_minutes=1e-9)
    run = ppo.train(config)
    before, newest = checkpoint_steps(run / "checkpoints")[-2:]
    good = load_checkpoint(checkpoint_path(run / "checkpoints", newest))
    policy = Policy(config, config.env.spec())
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3, eps=1e-5, fused=True)
    generators = {name: torch.Generator() for name in ("action", "minibatch")}
    good.restore(policy, optimizer, generators)
    save_checkpoint(
        run / "checkpoints",
        step=newest,
        policy=policy,
        optimizer=optimizer,
        state=wrong,
        generators=generators,
        run={"id": good.run_id, "config": dict(good.config or {})},
    )
    capsys.readouterr()
    ppo.train(replace(config, total_steps=60), resume=run)
    said = capsys.readouterr().out
    assert "skipping a damaged checkpoint" in said
    assert f"Resumed at step {before}" in said


def test_a_session_does_not_play_the_games_of_the_one_before(tmp_path: Path) -> None:
    """Both from the same checkpoint: an episode that crashes one must not crash all."""
    run = begin(replace(TINY, run_dir=str(tmp_path / "run")))
    seeds = []
    for _ in range(2):
        with TrainingSession(TINY, resume=run) as session:
            policy = Policy(TINY, TINY.env.spec())
            session.begin(policy, torch.optim.Adam(policy.parameters()))
            seeds += session.env_seeds(4)
    assert len(set(seeds)) == 8
