"""The evaluation of the fast weight papers' released code, so that its numbers can be compared.

``test()`` of polybeast_learner.py in the code of "Going Beyond Linear Transformers with Recurrent
Fast Weight Programmers" (Irie et al. 2021), which is TorchBeast's: the environment keeps its
training wrappers, episodic life among them, the return is set to zero at every end of an
*episode*, and the policy takes its most probable action. So an episode is a single life in every
game that has lives. 30 episodes make a run; what is reported is the mean of the means of 5 runs of
one checkpoint, and the standard deviation of these means (dividing by 5). It tells nothing about
training seeds, and is on another scale than the human and random scores, which are of whole games.

The wrappers have no time limit of their own: gym's for NoFrameskip-v4 cut a game at 400,000 frames.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from fwp_rl.config import ConfigError
from fwp_rl.envs import EnvConfig
from fwp_rl.envs.atari.rules import PAPER_RULES
from fwp_rl.evaluation import (
    Which,
    checkpoint_label,
    make_actor,
    open_policy,
    origin,
    warn_if_unwritable,
    write_result,
)
from fwp_rl.machine import choose_device
from fwp_rl.models.actions import Greedy
from fwp_rl.rl.collector import Actor
from fwp_rl.runs.seeding import env_seeds
from fwp_rl.terminal import Progress

__all__ = ["EPISODES", "MAX_FRAMES", "RUNS", "evaluate_paper", "paper_table"]

RUNS = 5
EPISODES = 30
"""Episodes of a run."""
MAX_FRAMES = PAPER_RULES.max_frames
"""Emulator frames after which a game is cut."""


def evaluate_paper(
    path: str | Path,
    *,
    checkpoint: Which = "last",
    seed: int = 0,
    device: str = "auto",
    output: str | Path | None = None,
    warn: Callable[[str], object] = warnings.warn,
) -> dict[str, Any]:
    """5 runs of 30 single lives with greedy actions; returns what it also writes as JSON.

    path        a run directory, its policy folder, or one of its checkpoints
    checkpoint  of the run: its last, its best, or that of so many environment steps
    output      the JSON file; by default one under the run's evaluations/, or, for a policy without
                a run, evaluation-<time>.json in the current folder
    warn        is told why, where the file cannot be written: ``file`` in the result is None then

    Raises ConfigError for a policy of another game than Atari, or of other rules than ``classic``;
    OSError where ``output`` cannot be written.
    """
    where = choose_device(device)
    saved = open_policy(path, checkpoint)
    config = _paper_environment(saved.env)
    warn_if_unwritable(saved, output, warn)
    env = config.make(RUNS, env_seeds(seed, RUNS, stream="paper-evaluation"))
    try:
        actor = make_actor(saved.policy, env, rule=Greedy(), seed=seed, device=where)
        returns, cut = _episodes(actor)
        description = env.describe()
    finally:
        env.close()
    label = checkpoint_label(saved, checkpoint)
    means = returns.mean(axis=1)
    result = {
        "schema": 1,
        "policy": str(saved.path),
        "run": saved.metadata.get("run"),
        "step": saved.metadata.get("step"),
        "protocol": {
            "name": "paper",
            "unit": "single lives, raw reward",
            "actions": "greedy",
            "checkpoint": label,
            "runs": RUNS,
            "episodes_per_run": EPISODES,
            "max_frames": MAX_FRAMES,
            "seed": seed,
        },
        "summary": {
            "task": saved.policy.spec.name,
            "mean": float(means.mean()),
            "std_of_run_means": float(means.std()),
            "run_means": means.tolist(),
            "truncated": cut,
        },
        "returns": returns.tolist(),
        **origin(saved.policy, description),
    }
    return write_result(saved, result, f"{label}-paper-seed{seed}", output, warn)


def paper_table(result: dict[str, Any]) -> Table:
    """The summary of such an evaluation, for a terminal."""
    protocol, summary = result["protocol"], result["summary"]
    table = Table(
        title=f"{summary['task']}: {protocol['runs']} runs of {protocol['episodes_per_run']} "
        f"single lives, greedy actions, {protocol['checkpoint']} checkpoint",
        title_justify="left",
        title_style="bold",
        show_header=False,
        caption="As the fast weight papers' code evaluates. Not comparable with whole games, nor "
        "with human and random scores.",
        caption_justify="left",
    )
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("mean of the runs' means", f"{summary['mean']:.2f}")
    table.add_row("standard deviation of these", f"{summary['std_of_run_means']:.2f}")
    table.add_row("the runs' means", ", ".join(f"{mean:.2f}" for mean in summary["run_means"]))
    table.add_row(
        f"lives cut by the limit of {protocol['max_frames']:,} frames", str(summary["truncated"])
    )
    return table


def _paper_environment(config: EnvConfig) -> EnvConfig:
    """The training environment, with the time limit of the papers' code."""
    limited = config.paper_protocol()
    if limited is None:
        raise ConfigError(
            "protocol: got paper, which is about the lives of Atari games, for a policy of "
            f"{config.spec().name}; use --protocol games"
        )
    return limited


def _episodes(actor: Actor) -> tuple[NDArray[np.float64], int]:
    """Returns [RUNS, EPISODES] of the first episodes of every column, a life each; how many the
    limit cut."""
    returns = np.zeros((RUNS, EPISODES))
    ended = np.zeros(RUNS, np.int64)
    score = np.zeros(RUNS)
    total, cut = RUNS * EPISODES, 0
    with Progress(total, title=f"Evaluating {total} lives", unit="lives") as progress:
        while (ended < EPISODES).any():
            answer = actor.step().answer
            score += answer.reward
            for column in np.flatnonzero(answer.terminated | answer.truncated):
                if ended[column] < EPISODES:
                    returns[column, ended[column]] = score[column]
                    ended[column] += 1
                    cut += int(answer.truncated[column])
                    progress.update(int(ended.sum()), {})
                score[column] = 0
    return returns, cut
