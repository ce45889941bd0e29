"""Which checkpoints a run has, which of them is the best, and which are kept.

The newest few are kept, the best, and every milestone. Only those that verify count: were damaged
ones counted, two of them would push the last good one out.
"""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from fwp_rl.runs.files import MANIFEST, CheckpointError, SealedFolder, read_folder, remove
from fwp_rl.runs.schema import CheckpointAbout, checked

__all__ = [
    "POLICY",
    "STATE",
    "TRAINER",
    "best",
    "checkpoint_path",
    "checkpoint_steps",
    "drop_old",
    "open_checkpoint",
    "remember",
]

POLICY, TRAINER, STATE = "policy.safetensors", "trainer.safetensors", "state.json"

_FOLDER = re.compile(r"step_(\d{12,19})(\.old)?", re.ASCII)

Traces: TypeAlias = tuple[tuple[int, int, int], ...]
"""Of each file of a checkpoint: inode, size, time of its last change."""

_verified: dict[str, Traces] = {}
"""Checkpoints that this process has written, or has read whole and found good."""


def checkpoint_path(directory: Path, step: int) -> Path:
    """The folder of the checkpoint of a step; it need not exist."""
    return directory / f"step_{step:012d}"


def checkpoint_steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in a directory, good or not, in their order."""
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    matches = [match for match in map(_FOLDER.fullmatch, names) if match]
    steps = {int(match[1]) for match in matches if match[1] == f"{int(match[1]):012d}"}
    return sorted(steps)


def open_checkpoint(path: Path) -> tuple[SealedFolder, CheckpointAbout]:
    """A checkpoint whose manifest is good and agrees with the folder's name, with what it says; or
    a CheckpointError."""
    folder = read_folder(path, kind="checkpoint", expected=(POLICY, TRAINER, STATE))
    about = checked(CheckpointAbout, folder.about, path / MANIFEST)
    match = _FOLDER.fullmatch(path.absolute().name)
    if match and int(match[1]) != about.step:
        raise CheckpointError(f"{path}: its manifest is that of step {about.step:,}")
    return folder, about


def best(directory: Path) -> Path:
    """The folder of the best good checkpoint, or a CheckpointError where none is good.

    Of those whose score measures the same as the newest score does: the highest, the first of
    equals. The newest checkpoint where none has a score.
    """
    step = _best(directory, _abouts(directory))
    if step is None:
        raise CheckpointError(f"{directory}: holds no good checkpoint")
    return checkpoint_path(directory, step)


def remember(path: Path) -> None:
    """This process has just written the checkpoint: it need not be read to know that it is good."""
    _verified[os.path.abspath(path)] = _traces(path)


def drop_old(directory: Path, step: int, keep: int) -> None:
    """Delete what came before ``step``, but for the newest ``keep``, the best and the milestones.

    Later steps than this one are left alone: they could not be read when the run resumed from an
    older one, and whoever looks into that wants them.
    """
    # it follows the new one's writing: a crash in between leaves one too many, never one too few
    abouts = _abouts(directory)
    kept = {_best(directory, abouts)} | {s for s, about in abouts.items() if about.milestone}
    for newest in sorted((s for s in abouts if s <= step), reverse=True):
        if keep > 0 and _is_good(directory, newest):
            kept.add(newest)
            keep -= 1
    for old in checkpoint_steps(directory):
        path = checkpoint_path(directory, old)
        replaced = path.with_name(f"{path.name}.old")
        if path.exists():  # a crash came after the new one, before the old one's end
            remove(replaced)
        if old < step and old not in kept:
            remove(path)
            remove(replaced)
            _verified.pop(os.path.abspath(path), None)


def _best(directory: Path, abouts: dict[int, CheckpointAbout]) -> int | None:
    scores = {step: about.score for step, about in abouts.items() if about.score is not None}
    for measured in (True, False):  # scores of schema 1 do not say what they measure
        known = [step for step in scores if (abouts[step].measure is not None) == measured]
        newest = _first_good(directory, sorted(known, reverse=True))
        if newest is not None:
            rivals = [step for step in known if abouts[step].measure == abouts[newest].measure]
            return _first_good(directory, sorted(rivals, key=lambda step: (-scores[step], step)))
    return _first_good(directory, sorted(abouts, reverse=True))


def _abouts(directory: Path) -> dict[int, CheckpointAbout]:
    """Step → what the manifest says, of the checkpoints that have a good manifest."""
    abouts = {}
    for step in checkpoint_steps(directory):
        with suppress(CheckpointError, OSError):
            abouts[step] = open_checkpoint(checkpoint_path(directory, step))[1]
    return abouts


def _first_good(directory: Path, steps: list[int]) -> int | None:
    return next((step for step in steps if _is_good(directory, step)), None)


def _is_good(directory: Path, step: int) -> bool:
    """Whether all of a checkpoint's files verify. They are read unless this process knows them."""
    path = checkpoint_path(directory, step)
    key = os.path.abspath(path)
    try:
        folder, _ = open_checkpoint(path)
        traces = _traces(folder.path)
        if _verified.get(key) != traces:
            for name in (POLICY, TRAINER, STATE):
                folder.read(name)
            _verified[key] = traces
    except (CheckpointError, OSError):
        return False
    return True


def _traces(folder: Path) -> Traces:
    facts = [(folder / name).stat() for name in (MANIFEST, POLICY, TRAINER, STATE)]
    return tuple((fact.st_ino, fact.st_size, fact.st_mtime_ns) for fact in facts)
