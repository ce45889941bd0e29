"""Evaluating saved policies.

An evaluation plays whole games: the training environment's wrappers stay, episodic life and the
core's resets at lost lives included, and the raw reward is summed over all lives until the game
ends. Every column plays a fixed number of games, since counting the first to finish would favour
short ones. A game cut by the time limit counts with what it had scored, and is reported.
``paper_evaluation.py`` plays single lives, as the fast weight papers' code does.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.table import Table

from fwp_rl.envs import EnvConfig, Game, VectorEnv
from fwp_rl.envs.atari import protocol_in_words
from fwp_rl.envs.base import normalized_score
from fwp_rl.machine import choose_device, facts
from fwp_rl.models.policy import Policy
from fwp_rl.rl.collector import Actor
from fwp_rl.runs.checkpoint import best
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.files import write_json
from fwp_rl.runs.policy import SavedPolicy, load_saved
from fwp_rl.runs.presets import config_to_dict
from fwp_rl.runs.seeding import derive_seed, env_seeds
from fwp_rl.terminal import Progress

__all__ = [
    "Played",
    "checkpoint_label",
    "evaluate",
    "evaluation_table",
    "make_actor",
    "open_policy",
    "play",
    "run_of",
    "summarize",
    "write_result",
]

MAX_COLUMNS = 16


def evaluate(
    path: str | Path,
    *,
    games: int = 30,
    greedy: bool = False,
    checkpoint: Literal["last", "best"] = "last",
    seed: int = 0,
    device: str = "auto",
    output: str | Path | None = None,
) -> dict[str, Any]:
    """Play whole games with a saved policy; returns what it also writes as JSON.

    path    a run directory, its policy folder, or one of its checkpoints
    games   at least so many; each column plays the same number
    output  the JSON file; by default one under the run's evaluations/, or, for a policy without a
            run, evaluation-<time>.json in the current folder
    """
    if games < 1:
        raise ValueError(f"games: got {games}, expected 1 or more")
    where = choose_device(device)
    saved = open_policy(path, checkpoint)
    played = play(saved.policy, saved.env, games=games, greedy=greedy, seed=seed, device=where)
    label = checkpoint_label(saved, checkpoint)
    result = {
        "schema": 1,
        "policy": str(saved.path),
        "step": saved.metadata.get("step"),
        "protocol": {
            "unit": "whole games, raw reward",
            "actions": "greedy" if greedy else "sampled",
            "checkpoint": label,
            "games": len(played.games),
            "columns": played.columns,
            "games_per_column": played.games_per_column,
            "seed": seed,
        },
        "summary": summarize(played.games, saved.policy.spec.name, saved.env),
        "returns": [game.episode_return for game in played.games],
        "lengths": [game.length for game in played.games],
        "truncated": [game.truncated for game in played.games],
    }
    kind = "greedy" if greedy else "sampled"
    return write_result(saved, played.environment, result, f"{label}-{kind}-seed{seed}", output)


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """Whole games of one policy.

    games             in the order in which they ended
    columns           environments that played beside each other, ``games_per_column`` games each
    environment       what the environment said of itself
    """

    games: list[Game]
    columns: int
    games_per_column: int
    environment: dict[str, Any]


def play(
    policy: Policy,
    env: EnvConfig,
    *,
    games: int,
    greedy: bool,
    seed: int,
    device: torch.device,
    quiet: bool = False,
    poll: Callable[[], object] = lambda: None,
) -> Played:
    """Play at least ``games`` whole games, as many in every column, in environments that are made
    for it and closed again.

    policy  is moved to the device; torch's global random streams are not drawn from
    seed    of the environments and of the actions
    quiet   show no progress
    poll    called before each step; what it raises ends the play
    """
    per_column = math.ceil(games / MAX_COLUMNS)
    columns = math.ceil(games / per_column)
    made = env.make(columns, env_seeds(seed, columns, stream="evaluation"))
    with closing(made):
        actor = make_actor(policy, made, greedy=greedy, seed=seed, device=device)
        return Played(
            games=list(_whole_games(actor, per_column, quiet, poll)),
            columns=columns,
            games_per_column=per_column,
            environment=made.describe(),
        )


def _whole_games(
    actor: Actor, per_column: int, quiet: bool, poll: Callable[[], object]
) -> Iterator[Game]:
    """The first ``per_column`` games of every column, in the order in which they end."""
    left = np.full(actor.env.num_envs, per_column)
    total = int(left.sum())
    with ExitStack() as stack:
        progress = None
        if not quiet:
            title = f"Evaluating {total} games"
            progress = stack.enter_context(Progress(total, title=title, unit="games"))
        while left.any():
            poll()
            for game in actor.step().answer.games:
                if left[game.column]:
                    left[game.column] -= 1
                    if progress is not None:
                        progress.update(total - int(left.sum()), {})
                    yield game


def checkpoint_label(saved: SavedPolicy, checkpoint: Literal["last", "best"]) -> str:
    """What to call the weights that were evaluated: last, best or the checkpoint's own name."""
    return checkpoint if saved.path.name == "policy" or checkpoint == "best" else saved.path.name


def write_result(
    saved: SavedPolicy,
    environment: dict[str, Any],
    result: dict[str, Any],
    name: str,
    output: str | Path | None,
) -> dict[str, Any]:
    """Write an evaluation as JSON, with all that it depends on; returns it, with its ``file``.

    environment  what the environment said of itself
    name         of the file, to which the time is added, where ``output`` is None
    """
    now = datetime.now(UTC)
    result = result | {
        "environment": environment,
        "network": config_to_dict(saved.policy.config),
        **facts(next(saved.policy.parameters()).device),
        "created": now.isoformat(timespec="seconds"),
    }
    stamp = now.strftime("%Y%m%d-%H%M%S")
    if output is None:
        run = run_of(saved.path)
        output = (
            f"evaluation-{stamp}.json"
            if run is None
            else run / "evaluations" / f"{name}-{stamp}.json"
        )
    write_json(Path(output), result)
    return result | {"file": str(output)}


def run_of(path: Path) -> Path | None:
    """The run directory that a policy or checkpoint folder lies in, if any; relative to the
    current folder where it lies below."""
    here, path = Path.cwd(), path.absolute()
    holders = [path]
    if path.name == "policy":
        holders.append(path.parent)
    if path.parent.name == "checkpoints":
        holders.append(path.parent.parent)
    run = next((holder for holder in holders if RunDirectory.is_run(holder)), None)
    return run.relative_to(here) if run is not None and run.is_relative_to(here) else run


def evaluation_table(result: dict[str, Any]) -> Table:
    """The summary of an evaluation, for a terminal; older results may lack some of its rows."""
    protocol, summary = result["protocol"], result["summary"]
    table = Table(
        title=f"{summary['task']}: {protocol['games']} whole games, {protocol['actions']} actions, "
        f"{protocol['checkpoint']} checkpoint",
        title_justify="left",
        title_style="bold",
        show_header=False,
    )
    table.add_column(style="bold")
    table.add_column(justify="right")
    rows = {"mean return": f"{summary['mean']:.2f}"}
    if summary["interval"] is not None:
        rows["95 % interval of the mean"] = "{:.2f} to {:.2f}".format(*summary["interval"])
        rows["standard deviation"] = f"{summary['std']:.2f}"
    rows["median"] = f"{summary['median']:g}"
    rows["lowest, highest"] = f"{summary['min']:g}, {summary['max']:g}"
    rows["mean length in steps"] = f"{summary['mean_length']:.0f}"
    rows["games cut by the time limit"] = str(summary["truncated"])
    if summary.get("success") is not None:
        rows["success"] = f"{100 * summary['success']['rate']:.1f} %"
        low, high = (100 * end for end in summary["success"]["interval"])
        rows["95 % interval of the success"] = f"{low:.1f} to {high:.1f} %"
    environment = result["environment"]
    if "protocol" in environment:
        rows["protocol of play"] = protocol_in_words(environment)
    if "backend" in environment:
        rows["played by"] = environment["backend"]
    if "screens" in environment:
        rows["screens in an observation"] = str(environment["screens"])
    if summary["human_normalized"] is not None:
        rows["human-normalised"] = f"{100 * summary['human_normalized']:.1f} %"
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def open_policy(path: str | Path, checkpoint: Literal["last", "best"]) -> SavedPolicy:
    """The saved policy of a run (its last or best), a policy folder or a checkpoint."""
    path = Path(path)
    if checkpoint == "best":
        run = run_of(path)
        if run is None:
            raise FileNotFoundError(
                f"{path} is not in a run directory: only runs have a best checkpoint"
            )
        path = best(run / "checkpoints")
    return load_saved(path)


def make_actor(
    policy: Policy, env: VectorEnv, *, greedy: bool, seed: int, device: torch.device
) -> Actor:
    """A policy at play, with action draws of its own."""
    generator = torch.Generator(device).manual_seed(derive_seed(seed, "evaluation-actions"))
    return Actor(policy.to(device), env, generator=generator, greedy=greedy)


def summarize(games: Sequence[Game], task: str, env: EnvConfig) -> dict[str, Any]:
    """What a table, a curve and a report show of some games.

    task  what the environment calls itself
    """
    returns = np.array([game.episode_return for game in games])
    mean = float(returns.mean())
    interval = None
    if len(returns) > 1:
        resampled = np.random.default_rng(0).choice(returns, (10_000, len(returns))).mean(axis=1)
        interval = [float(end) for end in np.quantile(resampled, (0.025, 0.975))]
    human = env.human_scores()
    return {
        "task": task,
        "mean": mean,
        "interval": interval,
        "interval_method": "95 % percentile bootstrap over games, 10,000 resamples",
        "median": float(np.median(returns)),
        "std": float(returns.std(ddof=1)) if len(returns) > 1 else None,
        "min": float(returns.min()),
        "max": float(returns.max()),
        "mean_length": float(np.mean([game.length for game in games])),
        "truncated": sum(game.truncated for game in games),
        "success": _success([env.success(game) for game in games]),
        "human_normalized": None if human is None else normalized_score(env, mean),
    }


def _success(judged: list[bool | None]) -> dict[str, Any] | None:
    """Share of games that reached the goal, with its interval; None for a task without a goal."""
    successes = [success for success in judged if success is not None]
    if not successes:
        return None
    n, z = len(successes), 1.96
    rate = sum(successes) / n
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    spread = z / (1 + z**2 / n) * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return {
        "rate": rate,
        "interval": [max(centre - spread, 0.0), min(centre + spread, 1.0)],
        "interval_method": "95 % Wilson score interval",
    }
