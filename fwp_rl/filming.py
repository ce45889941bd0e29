"""Filming saved policies at play: the memory beside the game, or the game alone."""

import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from fwp_rl.terminal import Progress, console_for

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
    progress: bool = False,
) -> Path:
    """Film ``games`` whole games, or the first ``max_seconds`` of them; returns the file's path.

    greedy      short for actions "greedy"
    actions     name of an action rule: sampled, greedy, epsilon_greedy; by default the policy's own
    checkpoint  of the run: its last, its best, or that of so many environment steps
    memory      show the core's memory, rates, value and actions beside the game; else the game
                alone
    still       a PNG sheet of four moments in place of a film
    output      by default a new file under the run's videos/; mp4 where av is installed (extra
                ``video``), else GIF
    progress    show what is being done on standard error

    ConfigError for what cannot be filmed and for a file that is there already, OSError where it
    cannot be written: before play.
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
    label = checkpoint_label(saved, checkpoint)
    if output is None:
        run = run_of(saved.path)
        folder = run / "videos" if run else Path()
        name = f"{label}-seed{seed}" + ("" if memory else "-game")
        output = _new(folder / f"{name}{'.png' if still else '.mp4'}")
    elif taken := _in_the_way(Path(output)):
        raise ConfigError(f"output: {taken} is there already; name another file, or remove it")
    check_writable(Path(output))
    subject = saved.policy.spec.name.rpartition("/")[2]
    playing = f"Playing {subject} with the {label} checkpoint, {max_seconds:g} s at most"
    env = saved.env.make(1, env_seeds(seed, 1, stream="video"), render=rate is not None)
    try:
        actor = make_actor(saved.policy, env, rule=rule, seed=seed, device=where, pulse=pulse)
        with _shown(progress, playing, limit, "steps") as done:
            if not memory:
                return write_video(_frames(actor, games, limit, done), Path(output), fps)
            count = itertools.count(1)

            def screen(actor: Actor) -> NDArray[np.uint8]:
                done(next(count))
                return screen_of(actor, films=rate is not None)

            moments = play(actor, screen, games=games, limit=limit)
    finally:
        env.close()
    core = CORES.name_of(type(saved.policy.config.core))
    film = MemoryFilm(moments, title=subject, core=core, actions=saved.env.action_names())
    if still:
        return write_picture(film.sheet(), Path(output))
    with _shown(progress, "Drawing the memory", len(film), "frames") as done:
        frames = _drawn(film, done)
        return write_video(frames, Path(output), fps, gif_rate=8, gif_colours=film.samples())


def _new(path: Path) -> Path:
    """The path, or one with a number where there is such a file: earlier films stay."""
    numbered = (path.with_stem(f"{path.stem}_{number}") for number in itertools.count(2))
    return next(file for file in itertools.chain([path], numbered) if not _in_the_way(file))


def _in_the_way(path: Path) -> Path | None:
    """The file that a film would overwrite, if there is one; without av an mp4 becomes a GIF."""
    files = [path]
    if path.suffix == ".mp4" and importlib.util.find_spec("av") is None:
        files.append(path.with_suffix(".gif"))
    return next((file for file in files if file.exists() and not file.is_dir()), None)


@contextmanager
def _shown(show: bool, title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Takes how much is done, and shows it if that is asked for."""
    if not show:
        yield lambda _: None
        return
    with Progress(total, title=title, unit=unit, console=console_for(sys.stderr)) as bar:
        yield lambda count: bar.update(count, {})


def _drawn(film: MemoryFilm, done: Callable[[int], None]) -> Iterator[NDArray[np.uint8]]:
    for number in range(len(film)):
        yield film.frame(number)
        done(number + 1)


def _frames(
    actor: Actor, games: int, limit: int, done: Callable[[int], None]
) -> Iterator[NDArray[np.uint8]]:
    for number in range(limit):
        yield actor.env.render(0)
        done(number + 1)
        if actor.step().answer.games:
            yield actor.env.render(0)
            games -= 1
            if not games:
                return
