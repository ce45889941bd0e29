"""What is found of a cell decides what is done with it."""

import json
from dataclasses import replace

import pytest
import yaml
from filelock import FileLock

from fwp_rl import agents  # noqa: F401  # fills the registry of agents
from fwp_rl.ablation.estimate import (
    crowded,
    guessed_seconds,
    remaining_seconds,
    steps_per_second,
)
from fwp_rl.ablation.folder import AblationFolder, CellProgress
from fwp_rl.ablation.grid import load_grid
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.envs.minigrid import MiniGridConfig
from fwp_rl.runs.checkpoint import checkpoint_path
from fwp_rl.runs.directory import RunDirectory, RunError
from fwp_rl.runs.flags import apply_flags
from fwp_rl.runs.presets import bookkeeping, config_to_dict, load_preset

GRID = {
    "preset": "recall",
    "overrides": {"total_steps": 1000, "evaluation_games": 10},
    "axes": {"core": ["lstm", "gru"], "seed": [1, 2]},
}


@pytest.fixture
def grid(tmp_path):
    return make_grid(tmp_path, GRID)


def make_grid(tmp_path, data):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return load_grid(path)


@pytest.fixture
def folder(tmp_path):
    return AblationFolder(tmp_path / "out")


def begin(folder, cell, *, step=0, state="running", checkpoint=True):
    run = folder.run(cell)
    run.path.mkdir(parents=True)
    config = replace(cell.config, run_dir=str(run.path), plain=True)  # as the runner has it
    run.write_config(config_to_dict(config))
    run.write_status(state, step=step, total=cell.config.total_steps)
    if checkpoint:
        checkpoint_path(run.checkpoints, step).mkdir(parents=True)
    return run


def evaluate(run, **changes):
    protocol = {"checkpoint": "last", "actions": "sampled", "games": 10}
    result = {"step": 1000, "created": "2026-01-01", "summary": {"mean": 0.5}}
    for name, value in changes.items():
        (protocol if name in protocol else result)[name] = value
    (run.path / "evaluations").mkdir(exist_ok=True)
    number = len(list((run.path / "evaluations").iterdir()))
    file = run.path / "evaluations" / f"{number}.json"
    file.write_text(json.dumps(result | {"protocol": protocol}))


def test_a_cell_that_has_not_begun_waits(folder, grid):
    assert folder.state(grid.cells[0]) == "waiting"
    assert folder.prepare(grid.cells[0]) is False


def test_a_half_done_cell_is_resumed(folder, grid):
    begin(folder, grid.cells[0], step=500, state="stopped")
    assert folder.state(grid.cells[0]) == "partial"
    assert folder.prepare(grid.cells[0]) is True


def test_a_run_killed_before_its_first_checkpoint_starts_anew(folder, grid):
    run = begin(folder, grid.cells[0], checkpoint=False)
    assert folder.state(grid.cells[0]) == "partial"
    assert folder.prepare(grid.cells[0]) is False
    assert RunDirectory.create(run.path) == run, "a new run finds nothing in its way"


def test_a_run_that_has_lost_its_checkpoints_is_not_thrown_away(folder, grid):
    run = begin(folder, grid.cells[0], step=500, checkpoint=False)
    run.metrics.write_text('{"step": 500, "time": 1.0}\n')
    assert folder.prepare(grid.cells[0]) is True, "resuming it says what is missing"
    assert RunDirectory.is_run(run.path)


def test_a_damaged_status_is_that_of_a_run_to_resume(folder, grid):
    run = begin(folder, grid.cells[0], step=1000, state="finished")
    evaluate(run)
    for damage in ("{", "[]", '{"state": "finished", "step": "1000"}'):
        run.status.write_text(damage)
        assert folder.state(grid.cells[0]) == "partial", damage
        assert folder.prepare(grid.cells[0]) is True


def test_what_is_no_run_is_not_deleted(folder, grid):
    path = folder.run(grid.cells[0]).path
    path.mkdir(parents=True)
    (path / "thesis.txt").touch()
    assert folder.prepare(grid.cells[0]) is False
    assert (path / "thesis.txt").exists()


def test_finished_is_trained_and_evaluated_at_the_end(folder, grid):
    cell = grid.cells[0]
    run = begin(folder, cell, step=1000, state="finished")
    assert folder.state(cell) == "partial"
    for changes in ({"step": 900}, {"checkpoint": "best"}, {"actions": "greedy"}, {"games": 9}):
        evaluate(run, **changes)
        assert folder.state(cell) == "partial", changes
    (run.path / "evaluations" / "damaged.json").write_text("{")
    evaluate(run)
    assert folder.state(cell) == "finished"
    score = folder.score(cell)
    assert (score.mean, score.games, score.step) == (0.5, 10, 1000)
    run.write_status("finished", step=999, total=1000)
    assert folder.state(cell) == "partial"


def test_a_run_in_other_hands_is_busy(folder, grid):
    run = begin(folder, grid.cells[0])
    with FileLock(run.path / ".lock"):
        assert folder.state(grid.cells[0]) == "busy"
    assert folder.state(grid.cells[0]) == "partial"


def test_two_runners_on_one_folder(folder):
    with folder.lock(), pytest.raises(RunError, match="another fwp-rl ablate is at work"):
        AblationFolder(folder.path).lock().__enter__()


def test_a_cell_that_is_another_experiment_now_is_refused(folder, grid, tmp_path):
    begin(folder, grid.cells[0])
    assert folder.check(grid) == []
    changed = make_grid(tmp_path, GRID | {"overrides": GRID["overrides"] | {"clip": 0.3}})
    with pytest.raises(RunError, match=r"cell lstm-s1 has clip = 0\.3, but was begun .* with 0\.2"):
        folder.check(changed)
    # what says nothing of the experiment may change
    how = {"checkpoint_minutes": 1.0, "device": "cpu", "logger": "wandb", "evaluation_games": 20}
    overrides = GRID["overrides"] | how | {"video": False, "keep_memory": False}
    changed = make_grid(tmp_path, GRID | {"overrides": overrides})
    assert folder.check(changed) == []


def test_a_cell_is_resumed_by_what_the_grid_says_now_of_how_it_runs(folder, grid, tmp_path):
    begin(folder, grid.cells[0], step=500, state="stopped")
    assert folder.resume_flags(grid.cells[0]) == []
    how = {"evaluation_games": 20, "keep_memory": False, "device": "cpu", "logger": "wandb"}
    changed = make_grid(tmp_path, GRID | {"overrides": GRID["overrides"] | how})
    flags = folder.resume_flags(changed.cells[0])
    begun = load_preset(folder.run(grid.cells[0]).config)
    resumed = apply_flags(begun, flags, prog="", description="")
    asked = bookkeeping(changed.cells[0].config)
    assert bookkeeping(resumed) == asked | {"run_dir": begun.run_dir, "plain": True}


def test_more_cells_and_fewer_are_told(folder, grid, tmp_path):
    folder.path.mkdir()
    folder.write(grid)
    axes = {"core": ["lstm", "delta_net"], "seed": [1, 2]}
    more, gone = folder.check(make_grid(tmp_path, GRID | {"axes": axes}))
    assert "2 new cells, such as delta_net-s1" in more
    assert "2 cells of" in gone
    assert "gru-s1" in gone


def test_progress_is_read_from_the_metrics(folder, grid):
    run = begin(folder, grid.cells[0])
    rows = [{"step": 100 * i, "time": 10.0 * i, "charts/episode_return": i} for i in range(1, 20)]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 20')
    progress = folder.progress(grid.cells[0])
    assert (progress.step, progress.seconds, progress.episode_return) == (1900, 190.0, 19)
    assert progress.rate == pytest.approx(10)
    assert folder.progress(grid.cells[1]) == CellProgress()


@pytest.mark.parametrize("last", ['{"step": 1, "time": null}', '{"step": "7", "time": 2.0}', "7"])
def test_rows_that_say_nothing_of_progress_are_left_out(folder, grid, last):
    run = begin(folder, grid.cells[0])
    run.metrics.write_text('{"step": 5, "time": 1.0, "charts/episode_return": "x"}\n' + last)
    progress = folder.progress(grid.cells[0])
    assert (progress.step, progress.seconds, progress.episode_return) == (5, 1.0, None)


def test_the_last_lines_of_a_log_are_those_of_its_last_process(folder, grid):
    log = folder.log(grid.cells[0])
    assert folder.log_tail(grid.cells[0]) == []
    log.parent.mkdir(parents=True)
    log.write_text("\n$ fwp-rl train a\nfirst\n\n$ fwp-rl train --resume a\n\nnext\nlast \n")
    assert folder.log_tail(grid.cells[0]) == ["next", "last"]
    log.write_text("\n$ fwp-rl train a\n" + "".join(f"{n} {'x' * 999}\n" for n in range(9)))
    tail = folder.log_tail(grid.cells[0])
    assert [line[:2] for line in tail] == ["4 ", "5 ", "6 ", "7 ", "8 "]
    assert {len(line) for line in tail} == {200}


def test_cells_that_compute_in_more_threads_than_they_have_cores_are_named(grid, tmp_path):
    assert crowded(grid.cells, threads=1) == []
    actors = {"preset": "impala_cpu", "axes": {"actors.count": [1, 2, 4], "seed": [1, 2]}}
    cells = make_grid(tmp_path, actors).cells
    assert crowded(cells, threads=5) == []
    (said,) = crowded(cells, threads=4)
    assert said.startswith("2 of the cells, such as count4-s1, have 4 cores for up to 4 threads of")
    (said,) = crowded(cells, threads=1)
    assert said.startswith("6 of the cells, such as count1-s1, have 1 core for up to 4 threads of")
    inline = {"preset": "impala_cpu", "axes": {"actors.kind": ["inline"], "seed": [1]}}
    assert crowded(make_grid(tmp_path, inline).cells, threads=1) == []


def test_times_come_from_what_has_run(grid):
    lstm1, lstm2, gru1, gru2 = grid.cells
    nothing = {cell.name: CellProgress() for cell in grid.cells}
    assert remaining_seconds(grid.cells, nothing, finished=[], jobs=2) is None
    slow, fast = CellProgress(step=1000, seconds=100), CellProgress(step=500, seconds=5)
    progress = nothing | {lstm1.name: slow, gru1.name: fast}
    known = [(lstm1, slow), (gru1, fast)]
    assert steps_per_second(lstm2, known) == 10
    assert steps_per_second(gru2, known) == 100
    assert steps_per_second(replace(gru2, labels={"core": "new"}), known) == pytest.approx(
        2 / (1 / 10 + 1 / 100)
    )
    # left: lstm2 100 s, gru1 5 s, gru2 10 s
    left = remaining_seconds(grid.cells, progress, finished=[lstm1.name], jobs=1)
    assert left == pytest.approx(115)
    left = remaining_seconds(grid.cells, progress, finished=[lstm1.name], jobs=2)
    assert left == pytest.approx(100)  # a cell is not shared


def test_before_anything_has_run_there_is_a_guess(grid):
    alone = guessed_seconds(grid.cells, jobs=1, threads=1)
    assert 1 < alone < 100  # 4,000 steps of a toy
    assert guessed_seconds(grid.cells, jobs=2, threads=3) == pytest.approx(alone / 6)
    slow, fast = (
        [replace(cell, config=replace(cell.config, env=env)) for cell in grid.cells]
        for env in (AtariConfig(game="Pong"), MiniGridConfig())
    )
    times = [guessed_seconds(cells, jobs=1, threads=1) for cells in (slow, fast)]
    assert times == [pytest.approx(3 * alone), pytest.approx(0.3 * alone)]
