"""Evaluations over whole games, of one checkpoint or of all that a run has kept."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from fwp_rl.config import ConfigError
from fwp_rl.envs import EnvConfig
from fwp_rl.evaluation.checkpoints import Which, checkpoint_label, holding_run, open_policy
from fwp_rl.evaluation.playing import Played, play, summarize
from fwp_rl.evaluation.results import origin, warn_if_unwritable, write_result
from fwp_rl.machine import choose_device
from fwp_rl.models.actions import ActionRule, asked_rule
from fwp_rl.models.policy import Policy
from fwp_rl.rl.pulse import Pulse
from fwp_rl.runs.checkpoint import CheckpointError, checkpoint_path, checkpoint_steps
from fwp_rl.runs.policy import SavedPolicy, load_saved

__all__ = ["evaluate", "evaluate_all", "result_of"]


def evaluate(
    path: str | Path,
    *,
    games: int = 30,
    greedy: bool = False,
    actions: str | None = None,
    checkpoint: Which = "last",
    seed: int = 0,
    device: str = "auto",
    output: str | Path | None = None,
    warn: Callable[[str], object] = warnings.warn,
    pulse: Pulse | None = None,
) -> dict[str, Any]:
    """Play whole games with a saved policy; returns what it also writes as JSON.

    path        a run directory, its policy folder, or one of its checkpoints
    games       at least so many; each column plays the same number
    greedy      short for actions "greedy"
    actions     name of an action rule: sampled, greedy, epsilon_greedy; by default the policy's own
    checkpoint  of the run: its last, its best, or that of so many environment steps
    output      the JSON file; by default one under the run's evaluations/, or, for a policy without
                a run, evaluation-<time>.json in the current folder
    warn        is told why, where the file cannot be written: ``file`` in the result is None then
    pulse       beats at every step, and may end the play before one

    OSError where ``output`` cannot be written, before anything is played.
    """
    _check_games(games)
    rule = asked_rule(actions, greedy=greedy)
    where = choose_device(device)
    saved = open_policy(path, checkpoint)
    warn_if_unwritable(saved, output, warn)
    return _evaluate(
        saved,
        checkpoint_label(saved, checkpoint),
        output,
        warn,
        games=games,
        rule=rule,
        seed=seed,
        device=where,
        pulse=pulse,
    )


def evaluate_all(
    path: str | Path,
    *,
    games: int = 30,
    greedy: bool = False,
    actions: str | None = None,
    seed: int = 0,
    device: str = "auto",
    output: str | Path | None = None,
    warn: Callable[[str], object] = warnings.warn,
) -> list[dict[str, Any]]:
    """``evaluate`` every checkpoint that a run has kept, in the order of their steps, each in the
    same environments; returns the results, each of which is also written as JSON.

    greedy, actions  as for ``evaluate``
    path    a run directory, its policy folder, or one of its checkpoints
    output  the folder of the JSON files; by default the run's evaluations/
    warn    is told of each checkpoint that cannot be used, and left out, and of files that cannot
            be written

    CheckpointError where there is no checkpoint that can be used.
    """
    _check_games(games)
    rule = asked_rule(actions, greedy=greedy)
    where = choose_device(device)
    checkpoints = holding_run(path, "all").checkpoints
    results: list[dict[str, Any]] = []
    for step in checkpoint_steps(checkpoints):
        try:
            saved = load_saved(checkpoint_path(checkpoints, step))
        except (CheckpointError, OSError) as error:
            warn(f"left out: {error}")
            continue
        label, file = saved.path.name, None
        if output is not None:
            file = Path(output) / f"{_name(label, rule or saved.policy.action_rule, seed)}.json"
        if not results:
            warn_if_unwritable(saved, file, warn)
        results.append(
            _evaluate(saved, label, file, warn, games=games, rule=rule, seed=seed, device=where)
        )
    if not results:
        raise CheckpointError(f"{checkpoints}: has no checkpoint that can be used")
    return results


def _check_games(games: int) -> None:
    if games < 1:
        raise ConfigError(f"games: got {games}, expected 1 or more")


def _name(label: str, rule: ActionRule, seed: int) -> str:
    return f"{label}-{rule.label().replace(' ', '-')}-seed{seed}"


def _evaluate(
    saved: SavedPolicy,
    label: str,
    output: str | Path | None,
    warn: Callable[[str], object],
    *,
    games: int,
    rule: ActionRule | None,
    seed: int,
    device: torch.device,
    pulse: Pulse | None = None,
) -> dict[str, Any]:
    """Play, sum up and write."""
    rule = rule or saved.policy.action_rule
    played = play(
        saved.policy,
        saved.env,
        games=games,
        rule=rule,
        seed=seed,
        device=device,
        pulse=pulse,
    )
    result = result_of(
        played,
        saved.policy,
        saved.env,
        where=saved.path,
        step=saved.metadata.get("step"),
        run=saved.metadata.get("run"),
        rule=rule,
        checkpoint=label,
        seed=seed,
    )
    return write_result(saved, result, _name(label, rule, seed), output, warn)


def result_of(
    played: Played,
    policy: Policy,
    env: EnvConfig,
    *,
    where: Path,
    step: int | None,
    run: Mapping[str, Any] | None,
    rule: ActionRule,
    checkpoint: str,
    seed: int,
) -> dict[str, Any]:
    """What a file of results holds of some games: them, and all that they depend on.

    where  the folder that the weights are of
    run    the identity of the run that made them
    rule   by which actions were taken
    """
    return {
        "schema": 1,
        "policy": str(where),
        "run": run,
        "step": step,
        "protocol": {
            "unit": "whole games, raw reward",
            "actions": rule.label(),
            "policy_actions": policy.action_rule.label(),
            "checkpoint": checkpoint,
            "games": len(played.games),
            "columns": played.columns,
            "games_per_column": played.games_per_column,
            "seed": seed,
        },
        "summary": summarize(played.games, policy.spec.name, env),
        "returns": [game.episode_return for game in played.games],
        "lengths": [game.length for game in played.games],
        "truncated": [game.truncated for game in played.games],
        **origin(policy, played.environment),
    }
