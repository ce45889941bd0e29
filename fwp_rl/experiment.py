"""A whole experiment: training, and what follows it, as the config says.

``fwp-rl train``, the workers of an ablation and ``fwp_rl.train`` come through here. An agent's own
``train`` ends with training.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TextIO, cast

from fwp_rl.config import ConfigError
from fwp_rl.cores import CORES
from fwp_rl.evaluation import evaluate, evaluation_table
from fwp_rl.filming import record_video
from fwp_rl.reports.plots import learning_curve
from fwp_rl.reports.task_summary import ending, result_table, task_curve
from fwp_rl.rl.pulse import Pulse
from fwp_rl.runs.config import RunConfig, TrainConfig
from fwp_rl.runs.directory import RunDirectory, RunState
from fwp_rl.runs.metrics import last_rows
from fwp_rl.runs.policy import load_saved
from fwp_rl.runs.presets import first_change, load_preset
from fwp_rl.runs.results import task_result
from fwp_rl.runs.resuming import clear_unsaved, has_work, is_complete
from fwp_rl.runs.schema import TaskResult
from fwp_rl.runs.signals import StopRequest, StopTraining
from fwp_rl.runs.views import open_view
from fwp_rl.terminal import Output, console_for, say_next
from fwp_rl.training.restoring import RESUME_MAY_CHANGE
from fwp_rl.training.watchdog import Watchdog

__all__ = ["finish", "train"]


def train(config: RunConfig, *, resume: Path | Literal["auto"] | None = None) -> Path:
    """Train, then evaluate, draw and film as the config says; returns the run directory.

    resume  a run directory to go on with, from its newest good checkpoint; where it is complete,
            evaluation included, that is said and nothing else is done. ``"auto"``: the one that
            ``config.run_dir`` names, if there is a run in it, else a new run starts there

    Ctrl-C and SIGTERM save a checkpoint and end the process's work there: nothing follows. RunError
    where the run directory cannot be used, CheckpointError where no checkpoint in it can.
    """
    if resume == "auto":
        if config.run_dir is None:
            raise ConfigError("run_dir: is missing; resume auto goes by it: give --run-dir")
        run = RunDirectory(Path(config.run_dir))
        config = replace(config, run_dir=str(run.path))
        if _is_complete(run, config):
            return _leave_alone(run, config)
        clear_unsaved(run)
        resume = run.path if has_work(run) else None
    elif resume is not None and isinstance(config, TrainConfig):
        run = RunDirectory.open(resume)
        if _is_complete(run, config):
            return _leave_alone(run, config)
    path = config.train(resume=resume)
    if isinstance(config, TrainConfig):
        finish(path, config)
    else:
        _show_task(path, config)
    return path


def _leave_alone(run: RunDirectory, config: RunConfig) -> Path:
    steps = f"{config.total_steps:,} steps"
    print(f"{run.path}: is complete at {steps}; a larger --total-steps extends it")
    return run.path


def _is_complete(run: RunDirectory, config: RunConfig) -> bool:
    """A run that is another experiment is not: resuming refuses it."""
    if not is_complete(run, config):
        return False
    return first_change(load_preset(run.config), config, without=RESUME_MAY_CHANGE) is None


def _show_task(path: Path, config: RunConfig) -> None:
    """Print what a run on a sequence task came to, and draw how it came there."""
    console = console_for(cast("TextIO", Output()))
    run = RunDirectory.open(path)
    result = task_result(run)
    if result is None:
        return
    core = CORES.name_of(type(config.core))
    console.print(result_table(result, core=core))
    console.print(ending(result), soft_wrap=True)
    attempts: dict[str, Callable[[], object]] = {
        "learning curve": partial(task_curve, run, result, core=core),
        "score in the log": partial(_show_score, path, config, result),
    }
    for what, make in attempts.items():
        try:
            make()
        except Exception as error:  # a finished training is not to fail for a picture
            console.print(f"No {what}: {type(error).__name__}: {error}", soft_wrap=True)
    console.print(f"\nIn the run directory {path}:", soft_wrap=True)
    for file in (run.result, run.curve, run.metrics):
        if file.is_file():
            console.print(f"  {file.name}", soft_wrap=True)
    say_next("report", path)


def _show_score(path: Path, config: RunConfig, result: TaskResult) -> None:
    """Show the score of a run on a sequence task where its curves are shown."""
    with closing(open_view(config.logger, path, start_step=result.steps)) as view:
        if result.score is not None:
            view.scalars(result.step, {"test/score": result.score})
        view.ended()


def finish(path: Path, config: TrainConfig) -> None:
    """What follows training: an evaluation, the learning curve, a video, and these in the log.
    A stop signal ends it between two steps of play, by KeyboardInterrupt or SystemExit."""

    def tell(_: RunState, said: str) -> bool:
        print(said, flush=True)
        return True  # there is nothing to save

    with (
        StopRequest("stopping; the trained policy is saved") as stop,
        ExitStack() as stack,
        suppress(StopTraining),
    ):
        watchdog = Watchdog(
            stop,
            hang_seconds=config.hang_seconds,
            rescue=tell,
        )
        stack.callback(watchdog.end)
        watchdog.start()
        _finish(path, config, stop, watchdog)
    if stop.exit_code == 130:
        raise KeyboardInterrupt
    if stop.requested:
        raise SystemExit(stop.exit_code)


def _finish(path: Path, config: TrainConfig, stop: StopRequest, watchdog: Watchdog) -> None:
    console = console_for(cast("TextIO", Output()))
    made = [path / "policy"]
    result = None

    def check() -> None:
        if stop.requested:
            raise StopTraining

    def attempt(what: str, make: Callable[[], Path | None]) -> None:
        """A finished training is not to fail for a picture."""
        check()
        try:
            file = make()
            made.extend([] if file is None else [file])
        except Exception as error:
            console.print(f"No {what}: {type(error).__name__}: {error}", soft_wrap=True)

    pulse = Pulse("the environments", check)
    watchdog.watch(pulse)
    if config.evaluation_games:
        result = evaluate(
            path,
            games=config.evaluation_games,
            device=config.device,
            warn=lambda text: console.print(text, soft_wrap=True),
            pulse=pulse,
        )
        console.print(evaluation_table(result))
        made.extend([Path(result["file"])] if result["file"] is not None else [])
    title = config.title()
    attempt("learning curve", lambda: learning_curve(path, evaluation=result, title=title))
    if config.video and config.env.frame_rate() is not None:
        attempt("video", lambda: record_video(path, device=config.device, pulse=pulse))
    attempt("results in the log", lambda: _show_results(path, config, result))
    console.print("\nIn the run directory:")
    for file in made:
        console.print(f"  {file}", soft_wrap=True)
    step = max((int(row["step"]) for row in last_rows(RunDirectory(path).metrics)), default=0)
    if step > config.total_steps:
        last = f"the update that reaches {config.total_steps:,} is a whole one"
        console.print(f"\nTrained for {step:,} steps: {last}")
    say_next("watch" if config.evaluation_games else "evaluate", path)


def _show_results(path: Path, config: TrainConfig, result: dict[str, Any] | None) -> Path | None:
    """Show the evaluation, and the game alone of a short clip, where the curves are shown."""
    step = int(load_saved(path).metadata.get("step") or 0)
    with closing(open_view(config.logger, path, start_step=step)) as view:
        if result is not None:
            view.scalars(step, {"evaluation/mean_return": result["summary"]["mean"]})
            view.text("evaluation", f"```json\n{json.dumps(result['summary'], indent=1)}\n```")
        if config.video and config.env.frame_rate() is not None:
            with TemporaryDirectory() as folder:
                clip = record_video(
                    path,
                    device=config.device,
                    max_seconds=20,
                    memory=False,
                    output=Path(folder) / "clip.gif",
                )
                view.clip(step, "evaluation/clip", clip)
        view.ended()
    return None
