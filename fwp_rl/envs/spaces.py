"""What Gymnasium's spaces become: images [C, H, W] and float32 vectors; and pictures as screens."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["observer", "screen"]


def observer(space: Any, num_envs: int) -> Callable[[Any], NDArray[Any]]:
    """Turns a vector environment's observations into ``[B, ...]``, as GymnasiumConfig says."""
    from gymnasium import spaces
    from gymnasium.vector.utils import batch_space, iterate

    bounds = _bounds(space)
    if isinstance(space, spaces.Box):
        if space.dtype == np.uint8 and len(space.shape) in (2, 3):
            return _channels_first
        if len(space.shape) == 3:
            of_bytes = (space.low == 0).all() and (space.high == 255).all()
            scale = np.float32(255 if of_bytes else 1)
            return lambda obs: _channels_first(_floats(obs) / scale)
        bounds = bounds.reshape(space.shape)
        return lambda obs: _floats(obs) / bounds
    batch = batch_space(space, num_envs)

    def observe(obs: Any) -> NDArray[Any]:
        rows = [_floats(spaces.flatten(space, row)) for row in iterate(batch, obs)]
        return np.stack(rows) / bounds

    return observe


def _floats(numbers: Any) -> NDArray[np.float32]:
    """As float32. What is beyond it becomes infinite without a warning: the books refuse it."""
    with np.errstate(over="ignore"):
        return np.asarray(numbers, np.float32)


def _channels_first(images: NDArray[Any]) -> NDArray[Any]:
    """[B, H, W], [B, H, W, C] or [B, C, H, W] as [B, C, H, W]: the first axis is the channels'
    where it is shorter than both others."""
    if images.ndim == 3:
        return images[:, None]
    first, *others = images.shape[1:]
    if first < min(others):
        return images
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _bounds(space: Any) -> NDArray[np.float32]:
    """What each entry of a flattened space is divided by: the upper bound of uint8, else 1."""
    from gymnasium import spaces

    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts = space.values() if isinstance(space, spaces.Dict) else space
        return np.concatenate([np.ones(0, np.float32), *map(_bounds, parts)])
    if isinstance(space, spaces.Box) and space.dtype == np.uint8:
        return np.maximum(space.high.ravel().astype(np.float32), 1)
    return np.ones(spaces.flatdim(space), np.float32)


def screen(picture: Any, id: str) -> NDArray[np.uint8]:
    """A rendered picture as uint8 ``[H, W, 3]``: grey, with an alpha channel or of another integer
    type as well. RuntimeError for what is none."""
    pixels = np.asarray(picture)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if (
        pixels.ndim != 3
        or not pixels.size
        or pixels.shape[2] not in (1, 3, 4)
        or pixels.dtype.kind not in "iu"
        or not 0 <= pixels.min() <= pixels.max() <= 255
    ):
        raise RuntimeError(
            f"{id} draws {type(picture).__name__} {pixels.dtype} {list(pixels.shape)}, expected "
            "whole numbers from 0 to 255 [height, width, 3]"
        )
    channels = [0, 0, 0] if pixels.shape[2] == 1 else [0, 1, 2]
    return np.ascontiguousarray(pixels[..., channels], dtype=np.uint8)
