"""How long cells will take, by the speed of cells that have run; before any has, a guess. And
whether they fit the cores that they get."""

from collections.abc import Collection, Mapping, Sequence

from fwp_rl.ablation.folder import CellProgress
from fwp_rl.ablation.grid import Cell
from fwp_rl.runs.presets import config_to_dict

__all__ = ["crowded", "guessed_seconds", "remaining_seconds", "steps_per_second"]


def steps_per_second(cell: Cell, known: Sequence[tuple[Cell, CellProgress]]) -> float | None:
    """Training speed to expect of a cell: its own so far, else the mean of the cells that have the
    most labels in common with it. None where nothing has run."""
    rates = [
        (other.name == cell.name, _common(cell, other), progress.step / progress.seconds)
        for other, progress in known
        if progress.seconds > 0 and progress.step > 0
    ]
    if not rates:
        return None
    nearest = max(rate[:2] for rate in rates)
    alike = [rate for *likeness, rate in rates if tuple(likeness) == nearest]
    return len(alike) / sum(1 / rate for rate in alike)


def remaining_seconds(
    cells: Sequence[Cell],
    progress: Mapping[str, CellProgress],
    *,
    finished: Collection[str],
    jobs: int,
) -> float | None:
    """Time to train what is left, evaluations not counted; None where no speed is known."""
    known = [(cell, progress[cell.name]) for cell in cells if progress[cell.name].seconds]
    left = []
    for cell in cells:
        if cell.name in finished:
            continue
        rate = steps_per_second(cell, known)
        if rate is None:
            return None
        left.append(max(cell.config.total_steps - progress[cell.name].step, 0) / rate)
    return max(sum(left) / jobs, max(left, default=0.0))


def guessed_seconds(cells: Sequence[Cell], *, jobs: int, threads: int) -> float:
    """An order of magnitude for a grid of which nothing has run: see ``guessed_speed`` of the
    environments' configs."""
    seconds = sum(cell.config.total_steps / cell.config.guessed_speed() for cell in cells)
    return seconds / (threads * jobs)


def crowded(cells: Sequence[Cell], *, threads: int) -> list[str]:
    """What to say, in sentences, of cells that compute in more threads at a time than they have
    cores: those whose actors play in threads of their own. Their number stays as it is, for it is
    part of the experiment: it bounds how old the actors' weights are."""
    most, names = 0, []
    for cell in cells:
        actors = config_to_dict(cell.config).get("actors", {})
        if actors.get("kind") == "threads":
            computing = actors["count"] * actors["cpu_threads"]
            if computing + 1 > threads:
                most = max(most, computing)
                names.append(cell.name)
    if not names:
        return []
    cores = f"{threads} core{'s' if threads > 1 else ''}"
    return [
        f"{len(names)} of the cells, such as {names[0]}, have {cores} for up to {most} threads of "
        "actors and the learner, which take turns; fewer --jobs with more --threads give them room"
    ]


def _common(one: Cell, other: Cell) -> int:
    shared = set(one.labels.items()) & set(other.labels.items())
    return len([axis for axis, _ in shared if axis != "seed"])
