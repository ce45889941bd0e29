"""Playing whole games with a policy, and what they come to."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fwp_rl.envs import EnvConfig, Game, VectorEnv
from fwp_rl.envs.base import normalized_score
from fwp_rl.machine import set_gpu_arithmetic
from fwp_rl.models.actions import ActionRule
from fwp_rl.models.policy import Policy
from fwp_rl.rl.collector import Actor
from fwp_rl.rl.pulse import Pulse
from fwp_rl.runs.seeding import derive_seed, env_seeds
from fwp_rl.terminal import Progress

__all__ = ["Played", "in_words", "make_actor", "play", "summarize"]

MAX_COLUMNS = 16


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
    rule: ActionRule | None = None,
    seed: int,
    device: torch.device,
    quiet: bool = False,
    pulse: Pulse | None = None,
) -> Played:
    """Play at least ``games`` whole games, as many in every column, in environments that are made
    for it and closed again.

    policy  is moved to the device; torch's global random streams are not drawn from
    rule    of its actions; None: its own
    seed    of the environments and of the actions
    quiet   show no progress
    pulse   beats at every step, and may end the play before one
    """
    per_column = math.ceil(games / MAX_COLUMNS)
    columns = math.ceil(games / per_column)
    made = env.make(columns, env_seeds(seed, columns, stream="evaluation"))
    with closing(made):
        actor = make_actor(policy, made, rule=rule, seed=seed, device=device, pulse=pulse)
        return Played(
            games=list(_whole_games(actor, per_column, quiet)),
            columns=columns,
            games_per_column=per_column,
            environment=made.describe(),
        )


def _whole_games(actor: Actor, per_column: int, quiet: bool) -> Iterator[Game]:
    """The first ``per_column`` games of every column, in the order in which they end."""
    left = np.full(actor.env.num_envs, per_column)
    total = int(left.sum())
    with ExitStack() as stack:
        progress = None
        if not quiet:
            title = f"Evaluating {total} games"
            progress = stack.enter_context(Progress(total, title=title, unit="games"))
        while left.any():
            for game in actor.step().answer.games:
                if left[game.column]:
                    left[game.column] -= 1
                    if progress is not None:
                        progress.update(total - int(left.sum()), {})
                    yield game


def make_actor(
    policy: Policy,
    env: VectorEnv,
    *,
    rule: ActionRule | None = None,
    seed: int,
    device: torch.device,
    pulse: Pulse | None = None,
) -> Actor:
    """A policy at play, by its own action rule unless another is given, with action draws of its
    own; computes as its config says."""
    set_gpu_arithmetic(policy.config.matmul_precision)
    generator = torch.Generator(device).manual_seed(derive_seed(seed, "evaluation-actions"))
    return Actor(policy.to(device), env, generator=generator, rule=rule, pulse=pulse)


def summarize(games: Sequence[Game], task: str, env: EnvConfig) -> dict[str, Any]:
    """What a table, a curve and a report show of some games.

    task  what the environment calls itself
    """
    human = env.human_scores()
    returns = _describe(np.array([game.episode_return for game in games]))
    return {
        "task": task,
        **returns,
        "mean_length": float(np.mean([game.length for game in games])),
        "truncated": sum(game.truncated for game in games),
        "success": _success([env.success(game) for game in games]),
        "human_normalized": None if human is None else normalized_score(env, returns["mean"]),
    }


def in_words(summary: Mapping[str, Any]) -> str:
    """``mean return 1.50 (95 % interval 1.20 to 1.80)``."""
    words = f"mean return {summary['mean']:.2f}"
    if summary["interval"] is None:
        return words
    return words + " (95 % interval {:.2f} to {:.2f})".format(*summary["interval"])


def _describe(returns: NDArray[np.float64]) -> dict[str, Any]:
    """Mean, interval and spread. Of an infinite return they are infinite, or NaN."""
    interval, std = None, None
    with np.errstate(invalid="ignore"):
        if len(returns) > 1:
            std = float(returns.std(ddof=1))
            drawn = np.random.default_rng(0).choice(returns, (10_000, len(returns))).mean(axis=1)
            interval = [float(end) for end in np.quantile(drawn, (0.025, 0.975))]
        return {
            "mean": float(returns.mean()),
            "interval": interval,
            "interval_method": "95 % percentile bootstrap over games, 10,000 resamples",
            "median": float(np.median(returns)),
            "std": std,
            "min": float(returns.min()),
            "max": float(returns.max()),
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
