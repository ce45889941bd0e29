"""What an agent shows while it plays: screens, and what its memory held at each step.

A memory is shown as matrices. A fast weight programmer's are its fast weights, head by head, as it
records them; of any other core they are the leaves of its state, vectors folded into rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fwp_rl.cores import recording
from fwp_rl.rl.collector import Actor

__all__ = ["Band", "Moment", "play", "screen_of"]

Number = TypeVar("Number", bound=np.generic)
Records: TypeAlias = Mapping[str, Sequence[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Band:
    """Matrices [n, rows, columns] that stand side by side, such as the heads of one layer."""

    label: str
    part: str
    """What the size of its change is counted with: its layer, or the leaf alone."""
    matrices: NDArray[np.floating]
    is_weight: bool = False
    """Fast weights, rather than a state."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One step: what was seen and done, and the memory after it."""

    screen: NDArray[np.uint8]
    """[height, width, 3], the screen acted on."""
    bands: list[Band]
    """Half precision: a whole game of them is kept."""
    change: dict[str, float]
    """Part of the memory → Frobenius norm of its change in this step; NaN where it began anew."""
    rates: dict[str, NDArray[np.float32]]
    """Name, such as beta or decay → [rows] one number per layer and head."""
    attention: NDArray[np.float32] | None
    """[layers × heads, steps ago], the present step last; for cores that attend to a window."""
    preferences: NDArray[np.float32]
    """Of each action, 0 to 1, as ``Policy.preferences`` has it: its probability, or where its value
    lies between the least and the greatest."""
    action: int
    value: float
    reward: float
    """Raw, the answer to the action."""
    reset: bool
    score: float
    """Sum of the game's raw rewards so far."""
    game: int


def play(
    actor: Actor, screen: Callable[[Actor], NDArray[np.uint8]], *, games: int, limit: int
) -> list[Moment]:
    """Play column 0 for ``games`` whole games, at most ``limit`` steps."""
    moments: list[Moment] = []
    before: list[Band] = []
    played, score = 0, 0.0
    while played < games and len(moments) < limit:
        picture = screen(actor)
        with recording() as records:
            step = actor.step()
        bands = bands_of(step.output.state, records, actor.policy.core.state_names)
        reset = bool(step.observation.reset[0, 0])
        reward = float(step.answer.reward[0])
        score += reward
        moments.append(
            Moment(
                screen=picture,
                bands=[_halved(band) for band in bands],
                change=_change(before, bands, reset),
                rates=rates_of(records),
                attention=_attention(records),
                preferences=actor.policy.preferences(step.output.logits[0, 0]).cpu().numpy(),
                action=int(step.action[0]),
                value=float(step.output.value[0, 0]),
                reward=reward,
                reset=reset,
                score=score,
                game=played,
            )
        )
        before = bands
        if any(game.column == 0 for game in step.answer.games):
            played, score = played + 1, 0.0
    return moments


def screen_of(actor: Actor, *, films: bool) -> NDArray[np.uint8]:
    """The screen of column 0; where the environment has none, its observation as bars of grey."""
    if films:
        return actor.env.render(0)
    seen = actor.observation.obs[0, 0].float().flatten().cpu().numpy()
    low, high = min(float(seen.min()), 0.0), max(float(seen.max()), 1.0)
    grey = (40 + 200 * (seen - low) / (high - low)).astype(np.uint8)
    return np.repeat(_folded(grey)[..., None], 3, axis=-1)


def bands_of(state: Sequence[Tensor], records: Records, names: Sequence[str]) -> list[Band]:
    """The memory of column 0. ``names`` are those of the state's leaves, where the core has any."""
    weights = {name: values for name, values in records.items() if name.endswith("fast_weight")}
    if weights:
        layers = max(map(len, weights.values()))
        return [
            Band(
                label=f"layer {layer + 1}"
                + (f", {_weight_name(name)}" if len(weights) > 1 else ""),
                part=f"layer {layer + 1}",
                is_weight=True,
                matrices=_numbers(values[layer][0]),
            )
            for layer in range(layers)
            for name, values in weights.items()
            if layer < len(values)
        ]
    labels = names or [f"state {i + 1}" for i in range(len(state))]
    return [
        Band(label=label, part=label, matrices=_as_matrices(_numbers(leaf[0])))
        for label, leaf in zip(labels, state, strict=True)
        if leaf.numel()
    ]


def rates_of(records: Records) -> dict[str, NDArray[np.float32]]:
    """Write rates and decays of column 0 in the only step recorded, layer after layer."""
    rates = {}
    for name, values in records.items():
        if name == "decay" or name.endswith("beta"):
            rates[name] = np.concatenate([_numbers(value[0, 0].flatten()) for value in values])
    return rates


def _attention(records: Records) -> NDArray[np.float32] | None:
    layers = records.get("attention")
    return np.concatenate([_numbers(layer[0, 0]) for layer in layers]) if layers else None


def _change(before: Sequence[Band], after: Sequence[Band], reset: bool) -> dict[str, float]:
    squares = {band.part: 0.0 for band in after}
    if reset or not before:
        return dict.fromkeys(squares, np.nan)
    for old, new in zip(before, after, strict=True):
        squares[new.part] += float(np.square(new.matrices - old.matrices).sum())
    return {part: square**0.5 for part, square in squares.items()}


def _weight_name(name: str) -> str:
    kind = name.removesuffix("fast_weight").replace("_", " ")
    return f"{kind}W"


def _numbers(x: Tensor) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = x.detach().to("cpu", torch.float32).numpy()
    return numbers


def _halved(band: Band) -> Band:
    top = np.finfo(np.float16).max
    half = np.nan_to_num(band.matrices, nan=0.0).clip(-top, top).astype(np.float16)
    return replace(band, matrices=half)


def _as_matrices(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Any shape to [n, rows, columns]: a vector is folded, leading axes are put side by side."""
    if x.ndim < 2:
        return _folded(x.reshape(-1))[None]
    return x.reshape(-1, *x.shape[-2:])


def _folded(x: NDArray[Number]) -> NDArray[Number]:
    """A vector as rows, about four times as wide as high."""
    wanted = (4 * x.size) ** 0.5
    divisors = [n for n in range(1, x.size + 1) if x.size % n == 0]
    return x.reshape(-1, min(divisors, key=lambda n: abs(np.log(n / wanted))))
