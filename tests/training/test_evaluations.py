"""Evaluations and checkpoints at given steps while a run trains."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fwp_rl.agents.impala import IMPALAConfig
from fwp_rl.agents.ppo import PPOConfig
from fwp_rl.config import ConfigError
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.evaluation import evaluate
from fwp_rl.models.encoders import MLPConfig
from fwp_rl.rl.actors import ActorsConfig
from fwp_rl.runs.checkpoint import best, checkpoint_path, checkpoint_steps, load_checkpoint
from fwp_rl.runs.config import TrainConfig
from fwp_rl.runs.metrics import read_metrics

EVERY = 100
FIELDS: dict[str, Any] = {
    "env": RecallConfig(),
    "encoder": MLPConfig(hidden_sizes=(8,)),
    "core": FeedforwardConfig(),
    "num_envs": 4,
    "total_steps": 350,
    "evaluation_games": 8,
    "video": False,
    "plain": True,
}
PPO = PPOConfig(rollout_length=8, **FIELDS)
IMPALA = IMPALAConfig(actors=ActorsConfig(kind="inline"), unroll_length=8, batch_size=4, **FIELDS)


def train(config: TrainConfig, run: Path, **changes: Any) -> Path:
    return replace(config, run_dir=str(run), **changes).train()


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(checkpoint_path(run / "checkpoints", last(run))).policy


def last(run: Path) -> int:
    return checkpoint_steps(run / "checkpoints")[-1]


def evaluated(run: Path) -> list[int]:
    """The steps in the log at which there were evaluations."""
    rows = read_metrics(run / "metrics.jsonl")
    return [int(row["step"]) for row in rows if "evaluation/mean_return" in row]


@pytest.mark.parametrize("config", [PPO, IMPALA])
def test_evaluations_change_nothing_of_what_is_learned(config: TrainConfig, tmp_path: Path) -> None:
    plain = train(config, tmp_path / "plain")
    watched = train(config, tmp_path / "watched", evaluate_every=EVERY, keep_checkpoints_every=70)
    assert last(plain) == last(watched)
    for name, tensor in weights(plain).items():
        assert torch.equal(tensor, weights(watched)[name]), name
    steps = evaluated(watched)
    assert [step // EVERY for step in steps] == [1, 2, 3]
    files = sorted((watched / "evaluations").glob("*.json"))
    assert [json.loads(file.read_text())["step"] for file in files] == steps
    assert len(json.loads(files[0].read_text())["returns"]) == 8


def test_the_best_checkpoint_is_the_best_of_the_evaluations(tmp_path: Path) -> None:
    run = train(PPO, tmp_path / "run", evaluate_every=EVERY, total_steps=650)
    means = {row["step"]: row["evaluation/mean_return"] for row in
             read_metrics(run / "metrics.jsonl") if "evaluation/mean_return" in row}  # fmt: skip
    chosen = load_checkpoint(best(run / "checkpoints"))
    assert chosen.measure == "evaluation"
    assert chosen.score == max(means.values())
    assert means[chosen.step] == chosen.score


def test_a_resumed_run_neither_repeats_nor_skips_an_evaluation(tmp_path: Path) -> None:
    run = train(PPO, tmp_path / "run", evaluate_every=EVERY, total_steps=150)
    for total in (190, 210, 350):
        config = replace(PPO, evaluate_every=EVERY, total_steps=total)
        assert config.train(resume=run) == run
    assert [step // EVERY for step in evaluated(run)] == [1, 2, 3]
    results = [json.loads(f.read_text()) for f in (run / "evaluations").glob("*.json")]
    assert sorted(result["step"] for result in results) == evaluated(run)
    assert len({tuple(result["returns"]) for result in results}) > 1, "other games each time"


def test_what_was_evaluated_after_the_checkpoint_is_evaluated_anew(tmp_path: Path) -> None:
    """A run is killed after an evaluation, before the next checkpoint is whole."""
    run = train(PPO, tmp_path / "run", evaluate_every=EVERY, total_steps=250)
    for step in checkpoint_steps(run / "checkpoints"):
        if step >= 2 * EVERY:
            checkpoint_path(run / "checkpoints", step).rename(tmp_path / str(step))
    replace(PPO, evaluate_every=EVERY, total_steps=250).train(resume=run)
    assert [step // EVERY for step in evaluated(run)] == [1, 2]
    results = [json.loads(f.read_text())["step"] for f in (run / "evaluations").glob("*.json")]
    assert sorted(results) == evaluated(run)


def test_checkpoints_are_kept_for_ever_and_evaluated_by_their_step(tmp_path: Path) -> None:
    run = train(PPO, tmp_path / "run", keep_checkpoints_every=EVERY, total_steps=650)
    kept = checkpoint_steps(run / "checkpoints")[:-1]
    assert [step // EVERY for step in kept] == [1, 2, 3, 4, 5, 6]
    replace(PPO, keep_checkpoints_every=EVERY, total_steps=750).train(resume=run)
    assert set(checkpoint_steps(run / "checkpoints")) >= set(kept)
    third = kept[2]
    result = evaluate(checkpoint_path(run / "checkpoints", third), games=2)
    assert result["step"] == third
    assert result["run"]["id"] == json.loads((run / "status.json").read_text())["run"]["id"]


def test_a_complete_run_keeps_its_score_where_milestones_are_turned_on(tmp_path: Path) -> None:
    run = train(PPO, tmp_path / "run", evaluate_every=EVERY, total_steps=2 * EVERY)
    before = load_checkpoint(checkpoint_path(run / "checkpoints", last(run)))
    config = replace(PPO, evaluate_every=EVERY, total_steps=2 * EVERY, keep_checkpoints_every=50)
    config.train(resume=run)
    after = load_checkpoint(checkpoint_path(run / "checkpoints", last(run)))
    assert (after.step, after.score, after.measure) == (before.step, before.score, "evaluation")


def test_an_evaluation_that_was_broken_off_at_the_end_is_made_at_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    config = replace(PPO, evaluate_every=EVERY, total_steps=2 * EVERY, run_dir=str(run))

    def stop(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr("fwp_rl.training.evaluations.play", stop)
        for _ in range(2):  # at each of the two evaluations
            begun = run if run.exists() else None
            with pytest.raises(ZeroDivisionError):
                config.train(resume=begun)
    assert evaluated(run) == []
    config.train(resume=run)
    assert [step // EVERY for step in evaluated(run)] == [1, 2]
    assert load_checkpoint(best(run / "checkpoints")).measure == "evaluation"


def test_time_for_evaluations_is_no_time_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that an evaluation moves on by an hour."""
    import time

    from fwp_rl.training.evaluations import Evaluations

    hours, evaluation, clock = [0], Evaluations.evaluate, time.monotonic

    def long(*given: Any, **more: Any) -> Any:
        hours[0] += 1
        return evaluation(*given, **more)

    monkeypatch.setattr(Evaluations, "evaluate", long)
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 3600 * hours[0])
    run = train(PPO, tmp_path / "run", evaluate_every=EVERY)
    rows = read_metrics(run / "metrics.jsonl")
    assert rows[-1]["time"] < 1800
    assert all(row["charts/steps_per_second"] > 0.1 for row in rows if "loss/policy" in row)


def test_evaluations_need_games() -> None:
    with pytest.raises(ConfigError, match="evaluate_every: got 100 with evaluation_games = 0"):
        replace(PPO, evaluate_every=100, evaluation_games=0)


def test_several_updates_share_a_row_of_the_log(tmp_path: Path) -> None:
    every = read_metrics(train(PPO, tmp_path / "every") / "metrics.jsonl")
    fourth = read_metrics(train(PPO, tmp_path / "fourth", log_every=4) / "metrics.jsonl")
    assert [row["step"] for row in fourth[:2]] == [every[3]["step"], every[7]["step"]]
    assert fourth[-1]["step"] == every[-1]["step"]
    first = [row["loss/value"] for row in every[:4]]
    assert fourth[0]["loss/value"] == pytest.approx(sum(first) / 4)
    largest = max(row["policy/ratio_deviation"] for row in every[:4])
    assert fourth[0]["policy/ratio_deviation"] == largest
