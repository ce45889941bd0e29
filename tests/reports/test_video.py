import importlib.util

import numpy as np
import pytest
from PIL import Image

from fwp_rl.reports.video import write_video

COLORS = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], dtype=np.uint8)


def frames(count: int, height: int = 210, width: int = 160):
    """One colour per frame, with a white square that moves down."""
    for i in range(count):
        frame = np.empty((height, width, 3), dtype=np.uint8)
        frame[:] = COLORS[i % 3]
        frame[5 * i : 5 * i + 10, :10] = 255
        yield frame


def without(monkeypatch, package: str) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find_spec(name)
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [((210, 160), (420, 320)), ((35, 51), (70, 102)), ((401, 599), (402, 600))],
)
def test_mp4_can_be_read_back(tmp_path, size, expected):
    av = pytest.importorskip("av")
    path = write_video(frames(12, *size), tmp_path / "new" / "video.mp4", 15)
    assert path == tmp_path / "new" / "video.mp4"
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        assert stream.average_rate == 15
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.codec_context.name == "h264"
        seen = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(seen) == 12
    for i, image in enumerate(seen):
        assert image.shape == (*expected, 3)
        centre = image[-10:, -10:].mean(axis=(0, 1))
        assert np.abs(centre - COLORS[i % 3]).max() < 12
    assert [file.name for file in path.parent.iterdir()] == ["video.mp4"]


@pytest.mark.parametrize(("fps", "count", "pictures"), [(15, 12, 12), (60, 12, 6), (30, 12, 12)])
def test_gif_can_be_read_back_and_lasts_as_long(tmp_path, fps, count, pictures):
    path = write_video(frames(count, 60, 40), tmp_path / "video.gif", fps)
    with Image.open(path) as image:
        assert image.size == (40, 60)
        assert image.n_frames == pictures
        seconds = 0.0
        for index in range(image.n_frames):
            image.seek(index)
            seconds += image.info["duration"] / 1000
        image.seek(0)
        first = np.asarray(image.convert("RGB"))
    assert seconds == pytest.approx(count / fps, rel=0.12)
    assert np.abs(first[-1, -1].astype(int) - COLORS[0]).max() < 12


def test_a_gif_of_a_still_picture_keeps_its_time(tmp_path):
    still = np.zeros((10, 10, 3), dtype=np.uint8)
    with Image.open(write_video([still] * 10, tmp_path / "still.gif", 10)) as image:
        assert image.info["duration"] * image.n_frames == 1000


def test_mp4_without_av_becomes_a_gif(tmp_path, monkeypatch):
    without(monkeypatch, "av")
    with pytest.warns(UserWarning, match=r"fwp-rl\[video\]"):
        path = write_video(frames(3), tmp_path / "video.mp4", 15)
    assert path == tmp_path / "video.gif"
    assert path.stat().st_size > 0
    assert [file.name for file in tmp_path.iterdir()] == ["video.gif"]


def test_frames_are_taken_one_by_one(tmp_path):
    """A long game must not be held in memory: a frame is gone when the next one comes."""
    pytest.importorskip("av")
    written = []

    def lazily():
        for frame in frames(20, 40, 40):
            written.append(len(list(tmp_path.iterdir())))
            yield frame

    write_video(lazily(), tmp_path / "video.mp4", 10)
    assert written[0] == 0
    assert written[-1] == 1, "encoding has begun before the last frame is asked for"


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_game_that_crashes_leaves_no_file(tmp_path, suffix):
    def broken():
        yield from frames(3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_video(broken(), tmp_path / f"video{suffix}", 10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pictures", "name", "fps", "message"),
    [
        ([], "a.gif", 10, "no frames"),
        ([], "a.avi", 10, r"ends in \.mp4 or \.gif"),
        ([], "a.gif", 0, "fps: got 0"),
        ([], "a.gif", float("nan"), "fps: got nan"),
        ([np.zeros((4, 4, 3))], "a.gif", 10, r"float64 \(4, 4, 3\), expected uint8"),
        ([np.zeros((4, 4), np.uint8)], "a.gif", 10, r"\(4, 4\), expected uint8 \[H, W, 3\]"),
        (
            [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)],
            "a.gif",
            10,
            "the first one had",
        ),
    ],
)
def test_bad_input_is_named(tmp_path, pictures, name, fps, message):
    with pytest.raises(ValueError, match=message):
        write_video(pictures, tmp_path / name, fps)
    assert list(tmp_path.iterdir()) == []
