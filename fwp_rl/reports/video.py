"""Videos of play: mp4 through av where it is installed, GIF through pillow everywhere."""

import importlib.util
import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["write_picture", "write_video"]

Frame = NDArray[np.uint8]


def write_video(
    frames: Iterable[Frame],
    path: str | Path,
    fps: float,
    *,
    gif_rate: float = 25.0,
    gif_colours: Sequence[Frame] | None = None,
) -> Path:
    """Write frames ``[H, W, 3]`` (uint8, all of one size) and return the file's path.

    path  ``.mp4`` or ``.gif``. An ``.mp4`` becomes a ``.gif``, with a warning, where av is not
          installed. Its folder is made where missing.
    fps   frames per second of play
    gif_rate     frames per second, about, that a GIF shows at most
    gif_colours  frames that a GIF's one palette is made for, which makes it smaller; else each
                 frame has its own

    The frames are consumed one by one, and the file appears when it is complete.
    """
    path = Path(path)
    if path.suffix not in (".mp4", ".gif"):
        raise ValueError(f"path: got {path.name!r}, expected a name that ends in .mp4 or .gif")
    if not 0 < fps <= 1000:
        raise ValueError(f"fps: got {fps}, expected more than 0 to 1000")
    if path.suffix == ".mp4" and importlib.util.find_spec("av") is None:
        path = path.with_suffix(".gif")
        warnings.warn(
            f"av is not installed, so the video is {path}; for mp4: pip install 'fwp-rl[video]'",
            stacklevel=2,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished-{path.name}")
    try:
        if path.suffix == ".mp4":
            _write_mp4(_checked(frames), unfinished, fps)
        else:
            _write_gif(_checked(frames), unfinished, fps, gif_rate, gif_colours)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def write_picture(picture: Frame, path: Path) -> Path:
    """Write ``[H, W, 3]`` (uint8) as a PNG, its folder where missing; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished-{path.name}")
    try:
        Image.fromarray(picture).save(unfinished, format="PNG", optimize=True)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _checked(frames: Iterable[Frame]) -> Iterator[Frame]:
    shape = None
    for frame in frames:
        shape = shape or frame.shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"a frame is {frame.dtype} {frame.shape}, expected uint8 [H, W, 3]")
        if frame.shape != shape:
            raise ValueError(f"a frame has shape {frame.shape}, the first one had {shape}")
        yield frame
    if shape is None:
        raise ValueError("there are no frames to write")


def _write_mp4(frames: Iterator[Frame], path: Path, fps: float) -> None:
    import av

    first = next(frames)
    # H.264 keeps one colour for 2 × 2 pixels: doubled, small sprites keep theirs
    scale = 2 if max(first.shape) <= 320 else 1
    height, width = (scale * n + scale * n % 2 for n in first.shape[:2])
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast"}
        for frame in itertools.chain([first], frames):
            image = frame.repeat(scale, axis=0).repeat(scale, axis=1)
            edges = ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0))
            picture = av.VideoFrame.from_ndarray(np.pad(image, edges, mode="edge"), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _write_gif(
    frames: Iterator[Frame],
    path: Path,
    fps: float,
    rate: float,
    colours: Sequence[Frame] | None,
) -> None:
    # players show a GIF's frame for no less than 20 ms, and count in steps of 10 ms
    skip = max(1, round(fps / rate))
    duration = max(20, round(100 * skip / fps) * 10)
    palette = None if colours is None else Image.fromarray(np.vstack(colours)).quantize(192)

    def reduced(frame: Frame) -> Image.Image:
        image = Image.fromarray(frame)
        if palette is None:
            return image.quantize(64, dither=Image.Dither.NONE)
        return image.quantize(palette=palette, dither=Image.Dither.NONE)

    pictures = map(reduced, itertools.islice(frames, 0, None, skip))
    first = next(pictures)
    first.save(
        path,
        format="GIF",
        save_all=True,
        append_images=pictures,
        duration=duration,
        loop=0,
        optimize=False,
    )
