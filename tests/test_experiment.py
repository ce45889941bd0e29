"""Training, and what follows it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import fwp_rl
from fwp_rl import agents, experiment
from fwp_rl.experiment import finish
from fwp_rl.machine import facts


@pytest.mark.parametrize("preset", ["recall", "impala_minigrid_memory"])
def test_train_trains_evaluates_and_draws_as_the_config_says(preset: str, tmp_path: Path) -> None:
    recall = agents.load_preset("recall")
    config = replace(
        agents.load_preset(preset),
        env=recall.env,
        encoder=recall.encoder,
        core=recall.core,
        total_steps=300,
        evaluation_games=8,
        run_dir=str(tmp_path / "run"),
        plain=True,
    )
    run = fwp_rl.train(config)
    assert run == tmp_path / "run"
    [file] = (run / "evaluations").glob("*.json")
    result = json.loads(file.read_text())
    assert result["protocol"]["games"] == 8
    for made in (result, json.loads((run / "status.json").read_text())):
        assert made["machine"] == facts()["machine"]
        assert (made["versions"], made["commit"]) == (facts()["versions"], facts()["commit"])
    assert (run / "curve.png").stat().st_size > 0
    longer = replace(config, total_steps=2 * result["step"], evaluation_games=0)
    assert fwp_rl.train(longer, resume=run) == run
    assert json.loads((run / "status.json").read_text())["step"] >= 2 * result["step"]
    assert len(list((run / "evaluations").glob("*.json"))) == 1


def test_a_picture_that_fails_does_not_fail_a_finished_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("operands could not be broadcast")

    for name in ("learning_curve", "record_video"):
        monkeypatch.setattr(experiment, name, fail)
    finish(tmp_path, replace(agents.load_preset("quickstart"), evaluation_games=0))
    said = capsys.readouterr().out
    assert "No learning curve: ValueError: operands could not be broadcast" in said
    assert "No video: ValueError" in said


def test_pictures_are_called_by_task_and_core_and_what_follows_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    titles = []

    def drawn(path: Path, *, title: str, **_: object) -> Path:
        titles.append(title)
        return path / "curve.png"

    monkeypatch.setattr(experiment, "learning_curve", drawn)
    config = replace(agents.load_preset("quickstart"), evaluation_games=0, video=False)
    run = tmp_path / "a run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 200704, "time": 1.0}\n')
    finish(run, config)
    assert titles == ["Breakout, delta_net"]
    said = capsys.readouterr()
    assert "Trained for 200,704 steps: the update that reaches 200,000" in said.out
    assert said.err.splitlines()[-1] == f"Next: fwp-rl evaluate '{run}'"
