"""Colours for numbers, and where a memory's matrices stand in a picture. NumPy and pillow alone:
a frame is drawn in milliseconds."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["DIVERGING", "SEQUENTIAL", "Box", "colours", "resized", "tile_boxes"]

Box = tuple[int, int, int, int]
"""left, top, width, height, in pixels"""

_DARK = (20, 25, 34)


def _ramp(anchors: Sequence[tuple[int, int, int]], levels: int) -> NDArray[np.uint8]:
    at = np.linspace(0, len(anchors) - 1, levels)
    channels = [np.interp(at, range(len(anchors)), c) for c in zip(*anchors, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


# Blue and orange are told apart by colour-blind readers. Few levels keep a GIF's palette exact.
_COLD, _WARM = [(178, 226, 255), (60, 150, 230), (24, 72, 128)], [(132, 62, 16), (232, 124, 30)]
DIVERGING: Final = _ramp([*_COLD, _DARK, *_WARM, (255, 214, 140)], 61)
"""Negative blue, zero dark, positive orange."""
SEQUENTIAL: Final = _ramp([_DARK, (16, 92, 96), (62, 176, 130), (236, 246, 178)], 31)
"""Zero dark, top light."""


def colours(
    x: NDArray[np.floating], low: float, high: float, ramp: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Numbers of any shape to colours [..., 3]; what is beyond low or high has the end's colour."""
    share = (x.astype(np.float32) - low) / (high - low)
    level = (share * (len(ramp) - 1)).round().clip(0, len(ramp) - 1).astype(np.intp)
    painted: NDArray[np.uint8] = ramp[level]
    return painted


def resized(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Whole pixels where they are enlarged, means where they are made smaller."""
    if picture.shape[:2] == (height, width):
        return picture
    smaller = width < picture.shape[1] or height < picture.shape[0]
    method = Image.Resampling.BOX if smaller else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize((width, height), method))


def tile_boxes(count: int, rows: int, columns: int, area: Box, gap: int = 8) -> list[Box]:
    """Where ``count`` matrices of one shape stand in an area: as large as they can be, with as few
    lines as that takes, at whole pixels per number where there is room for it."""
    left, top, width, height = area

    def scale(lines: int) -> float:
        across = -(-count // lines)
        across_scale = (width - gap * (across - 1)) / (across * columns)
        return min(across_scale, (height - gap * (lines - 1)) / (lines * rows))

    lines = max(range(1, count + 1), key=lambda n: round(scale(n), 6))
    size = scale(lines)
    size = float(int(size)) if size >= 2 else size
    across = -(-count // lines)
    w, h = max(1, int(size * columns)), max(1, int(size * rows))
    if lines == 1 and count > 1:
        gap = min(gap + 32, (width - count * w) // (count - 1))
    boxes = []
    for i in range(count):
        line, place = divmod(i, across)
        boxes.append((left + place * (w + gap), top + line * (h + gap), w, h))
    return boxes
