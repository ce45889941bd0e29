"""Filming saved policies at play: the memory beside the game, or the game alone."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fwp_rl.config import ConfigError
from fwp_rl.cores import CORES
from fwp_rl.evaluation import (
    Which,
    check_writable,
    checkpoint_label,
    make_actor,
    open_policy,
    run_of,
)
from fwp_rl.machine import choose_device
from fwp_rl.models.actions import asked_rule
from fwp_rl.reports.memory_film import MemoryFilm
from fwp_rl.reports.moments import play, screen_of
from fwp_rl.reports.video import write_picture, write_video
from fwp_rl.rl.collector import Actor
from fwp_rl.rl.pulse import Pulse
from fwp_rl.runs.seeding import env_seeds

__all__ = ["record_video"]

SCREENLESS_RATE = 4.0
"""Steps per second of a film where the environment has no screen."""


def record_video(
    path: str | Path,
    *,
    greedy: bool = False,
    actions: str | None = None,
    checkpoint: Which = "last",
    seed: int = 0,
    device: str = "auto",
    games: int = 1,
    max_seconds: float = 120.0,
    memory: bool = True,
    still: bool = False,
    output: str | Path | None = None,
    pulse: Pulse | None = None,
) -> Path:
    """Film ``games`` whole games, or the first ``max_seconds`` of them; returns the file's path.

    greedy      short for actions "greedy"
    actions     name of an action rule: sampled, greedy, epsilon_greedy; by default the policy's own
    checkpoint  of the run: its last, its best, or that of so many environment steps
    memory      show the core's memory, rates, value and actions beside the game; else the game
                alone
    still       a PNG sheet of four moments in place of a film
    output      by default under the run's videos/; mp4 where av is installed (extra ``video``),
                else GIF

    ConfigError for what cannot be filmed, OSError where the file cannot be written: before play.
    """
    kinds = (".png",) if still else (".mp4", ".gif")
    if output is not None and Path(output).suffix not in kinds:
        raise ConfigError(
            f"output: got {str(output)!r}, expected a name that ends in {' or '.join(kinds)}"
        )
    if still and not memory:
        raise ConfigError("still: a sheet shows the memory too; leave --no-memory out")
    rule = asked_rule(actions, greedy=greedy)
    where = choose_device(device)
    saved = open_policy(path, checkpoint)
    rate = saved.env.frame_rate()
    if rate is None and not memory:
        raise ConfigError(f"{saved.policy.spec.name} has no screen to film; leave --no-memory out")
    fps = rate or SCREENLESS_RATE
    limit = max(1, int(max_seconds * fps))
    if output is None:
        run = run_of(saved.path)
        folder = run / "videos" if run else Path()
        name = f"{checkpoint_label(saved, checkpoint)}-seed{seed}" + ("" if memory else "-game")
        output = folder / f"{name}{'.png' if still else '.mp4'}"
    check_writable(Path(output))
    env = saved.env.make(1, env_seeds(seed, 1, stream="video"), render=rate is not None)
    try:
        actor = make_actor(saved.policy, env, rule=rule, seed=seed, device=where, pulse=pulse)
        if not memory:
            return write_video(_frames(actor, games, limit), Path(output), fps)
        moments = play(
            actor, lambda a: screen_of(a, films=rate is not None), games=games, limit=limit
        )
    finally:
        env.close()
    core = CORES.name_of(type(saved.policy.config.core))
    film = MemoryFilm(
        moments,
        title=saved.policy.spec.name.rpartition("/")[2],
        core=core,
        actions=saved.env.action_names(),
    )
    if still:
        return write_picture(film.sheet(), Path(output))
    frames = map(film.frame, range(len(film)))
    return write_video(frames, Path(output), fps, gif_rate=8, gif_colours=film.samples())


def _frames(actor: Actor, games: int, limit: int) -> Iterator[NDArray[np.uint8]]:
    for _ in range(limit):
        yield actor.env.render(0)
        if actor.step().answer.games:
            yield actor.env.render(0)
            games -= 1
            if not games:
                return
