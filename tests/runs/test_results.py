"""Which evaluation is a run's score: one rule, for reports and ablations alike."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fwp_rl import agents
from fwp_rl.ablation.folder import AblationFolder
from fwp_rl.ablation.grid import Cell
from fwp_rl.agents import ppo
from fwp_rl.evaluation import evaluate
from fwp_rl.reports.records import read_records
from fwp_rl.runs.config import TrainConfig
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.presets import config_to_dict
from fwp_rl.runs.results import paper_evaluation, score

STEP = 1000


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory.create(tmp_path / "runs" / "a")
    run.write_config(config_to_dict(config()))
    run.write_status("finished", step=STEP, total=STEP)
    return run


def config() -> TrainConfig:
    return replace(agents.load_preset("recall"), total_steps=STEP, evaluation_games=0)


def write(run: RunDirectory, mean: float, **changes: Any) -> None:
    protocol = {"checkpoint": "last", "actions": "sampled", "games": 30}
    result: dict[str, Any] = {"step": STEP, "created": "2026-01-01"}
    for name, value in changes.items():
        (protocol if name in (*protocol, "policy_actions") else result)[name] = value
    run.evaluations.mkdir(exist_ok=True)
    file = run.evaluations / f"{len(list(run.evaluations.iterdir()))}.json"
    result |= {"protocol": protocol, "summary": {"mean": mean, "interval": None}}
    file.write_text(json.dumps(result))


def means(run: RunDirectory) -> set[float | None]:
    """By all that show a score."""
    cell = Cell(name=run.path.name, labels={}, config=config())
    (record,) = read_records([run.path]).runs
    found = (score(run), AblationFolder(run.path.parent).score(cell), record.score)
    return {None if each is None else each.mean for each in found}


def test_without_an_evaluation_there_is_none(run: RunDirectory) -> None:
    assert means(run) == {None}


@pytest.mark.parametrize(
    "changes",
    [
        {"step": STEP - 1},
        {"step": STEP + 1},
        {"step": None},
        {"checkpoint": "best"},
        {"actions": "greedy"},
        {"actions": "sampled", "policy_actions": "greedy"},
    ],
)
def test_what_is_no_score(run: RunDirectory, changes: dict[str, Any]) -> None:
    write(run, 0.9, games=500, created="2026-02-02", **changes)
    assert means(run) == {None}
    write(run, 0.1)
    assert means(run) == {0.1}


def test_a_policy_is_scored_by_its_own_rule(run: RunDirectory) -> None:
    write(run, 0.3, actions="greedy", policy_actions="greedy")
    assert means(run) == {0.3}
    write(run, 0.9, actions="sampled", policy_actions="greedy", games=500)
    assert means(run) == {0.3}


def test_most_games_come_first_then_the_newest(run: RunDirectory) -> None:
    write(run, 0.5, created="2026-01-02")
    write(run, 0.0, games=1, created="2026-03-03")  # a quick look later on
    assert means(run) == {0.5}
    write(run, 0.6, created="2026-01-03")
    write(run, 0.7, created="2026-01-01")
    assert means(run) == {0.6}
    write(run, 0.4, games=200, created="2025-01-01")
    assert means(run) == {0.4}
    found = score(run)
    assert found is not None
    assert (found.games, found.step) == (200, STEP)
    assert score(run, games=201) is None


def test_a_checkpoint_called_by_its_own_name_may_be_the_last_one(run: RunDirectory) -> None:
    write(run, 0.3, checkpoint=f"step_{STEP:012}")
    assert means(run) == {0.3}


GOOD: dict[str, Any] = {
    "step": STEP,
    "protocol": {"checkpoint": "last", "actions": "sampled", "games": 30},
    "summary": {"mean": 0.5, "interval": None},
}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"protocol": 3}',
        '{"protocol": {}, "summary": 1}',
        *(
            json.dumps(GOOD | {"protocol": GOOD["protocol"] | {"games": games}})
            for games in (None, "500", 500.5, True, [500])
        ),
        *(json.dumps(GOOD | {"summary": s}) for s in ("the mean", {"mean": None}, {"mean": "1"})),
        *(json.dumps(GOOD | {"summary": {"mean": mean}}) for mean in (True, [], 10**400)),
        *(json.dumps(GOOD | {"step": step}) for step in (True, str(STEP), float(STEP), [STEP])),
        *(json.dumps(GOOD | {"created": created}) for created in (3, ["2026"], {})),
        json.dumps(GOOD).replace("0.5", "NaN"),
        json.dumps(GOOD | {"deep": 0}).replace("0}", '{"a":' * 50_000),
        json.dumps(GOOD | {"deep": 0}).replace("0}", "[" * 100 + "]" * 100 + "}"),
    ],
    ids=lambda text: text[:60],
)
def test_damaged_evaluations_do_not_hide_the_others(run: RunDirectory, text: str) -> None:
    run.evaluations.mkdir()
    (run.evaluations / "damaged.json").write_text(text)
    assert means(run) == {None}
    write(run, 0.3)
    assert means(run) == {0.3}


def test_a_damaged_status_hides_nothing(run: RunDirectory) -> None:
    for text in ("{", "[]", '{"step": "x"}', '{"step": [1]}', '{"step": true}', '{"a":' * 50_000):
        run.status.write_text(text)
        assert score(run) is None
    write(run, 0.3)
    run.status.write_text(json.dumps({"step": STEP}))
    assert means(run) == {0.3}


def test_an_endless_evaluation_is_not_read(run: RunDirectory) -> None:
    write(run, 0.3)
    (run.evaluations / "sparse.json").touch()
    os.truncate(run.evaluations / "sparse.json", 1 << 40)
    os.mkfifo(run.evaluations / "pipe.json")
    assert means(run) == {0.3}


def test_single_lives_are_no_score(run: RunDirectory) -> None:
    """And they are shown by the rule of the score: the last checkpoint's, the newest."""
    lives: dict[str, Any] = {
        "protocol": {"name": "paper", "actions": "greedy", "checkpoint": "last"},
        "summary": {"mean": 9.0, "std_of_run_means": 1.0},
        "step": STEP,
        "created": "2026-01-01",
    }

    def store(name: str, **changes: Any) -> None:
        run.evaluations.mkdir(exist_ok=True)
        (run.evaluations / f"{name}.json").write_text(json.dumps(lives | changes))

    store("earlier", step=STEP - 1, created="2026-05-01")
    store("later", step=STEP + 1, created="2026-05-01")
    store("best", protocol=lives["protocol"] | {"checkpoint": "best"}, created="2026-05-01")
    store("damaged", summary={"mean": 9.0}, created="2026-05-01")
    assert paper_evaluation(run) is None
    store("b", created="2026-01-02")
    store("a", created="2026-01-03")
    store("c", created="2026-01-01")
    found = paper_evaluation(run)
    assert found is not None
    assert found["created"] == "2026-01-03"
    assert means(run) == {None}


def test_a_run_that_went_on_has_no_score_until_it_is_evaluated_again(tmp_path: Path) -> None:
    short = replace(config(), total_steps=200, run_dir=str(tmp_path / "run"), plain=True)
    run = RunDirectory(ppo.train(short))
    evaluate(run.path, games=16)
    first = score(run)
    assert first is not None
    # a crash may come later than the last checkpoint, which keeps its score
    run.write_status("failed", step=first.step + 100, total=200)
    assert score(run) == first
    longer = replace(short, total_steps=2 * first.step)
    ppo.train(longer, resume=run.path)
    assert score(run) is None
    evaluate(run.path, games=16)
    second = score(run)
    assert second is not None
    assert second.step >= longer.total_steps
