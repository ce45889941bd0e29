"""The film of a game with the agent's memory beside it.

Left the screen, the score and what the policy would do; right the memory's matrices, and below
them the last 100 steps: write rates, the size of the memory's change, the value, rewards. All
scales are those of the whole film and do not move.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fwp_rl.reports.heatmap import DIVERGING, SEQUENTIAL, Box, colours, resized, tile_boxes
from fwp_rl.reports.moments import Moment

__all__ = ["HISTORY", "SIZE", "MemoryFilm"]

SIZE: Final = (960, 600)
HISTORY: Final = 100
"""Steps that the curves look back on."""
MAX_BANDS: Final = 8

_MARGIN, _GAP = 20, 24
_LEFT, _SCREEN = 320, 420
_RIGHT = _MARGIN + _LEFT + _GAP
_WIDE = SIZE[0] - _RIGHT - _MARGIN
_TOP = 48
_BOTTOM = SIZE[1] - 16

_BACKGROUND, _PLOT, _LINE = (13, 17, 23), (20, 25, 34), (48, 54, 61)
_TEXT, _MUTED = (230, 237, 243), (139, 148, 158)
_GAIN, _LOSS = (255, 196, 87), (96, 178, 250)
_CURVES = [(62, 176, 130), (214, 140, 214), (232, 124, 30), (96, 178, 250), (236, 246, 178)]

_Chart = Callable[[Image.Image, ImageDraw.ImageDraw, Box, int], None]


class MemoryFilm:
    """Frames ``[600, 960, 3]`` of the moments of a game, to be had by their index."""

    def __init__(
        self, moments: Sequence[Moment], *, title: str, core: str, actions: Sequence[str] | None
    ) -> None:
        """``actions`` are the names of the actions, where they have any."""
        if not moments:
            raise ValueError("there are no moments to film")
        self.moments = moments
        count = len(moments[0].preferences)
        self.actions = list(actions) if actions else [f"action {a}" for a in range(count)]
        self.bands = moments[0].bands[:MAX_BANDS]
        self.scale = _memory_scale(moments, len(self.bands))
        """|number| at which the heat maps' colours end: the 99th percentile of the film."""
        self._measure()
        self._charts = self._place_charts(self._place_bands())
        self._still = self._draw_still(title, core)

    def __len__(self) -> int:
        return len(self.moments)

    def frame(self, index: int) -> NDArray[np.uint8]:
        """One step's picture."""
        moment = self.moments[index]
        picture = self._still.copy()
        _paste(picture, _fitted(moment.screen, _LEFT, _SCREEN), self._screen_box(moment.screen))
        for boxes, band in zip(self._boxes, moment.bands, strict=False):
            painted = colours(band.matrices, -self.scale, self.scale, DIVERGING)
            for box, tile in zip(boxes, painted, strict=True):
                _paste(picture, resized(tile, box[2], box[3]), box)
        image = Image.fromarray(picture)
        draw = ImageDraw.Draw(image)
        self._draw_policy(draw, index)
        for chart, box in self._charts:
            chart(image, draw, box, index)
        return np.asarray(image)

    def samples(self) -> list[NDArray[np.uint8]]:
        """Frames that have the film's colours, about all of them."""
        return [self.frame(round(at)) for at in np.linspace(0, len(self) - 1, 6)]

    def sheet(self) -> NDArray[np.uint8]:
        """Four moments, a quarter of the film apart, two by two."""
        last = len(self) - 1
        a, b, c, d = (self.frame(round(last * share)) for share in (0.25, 0.5, 0.75, 1.0))
        return np.vstack([np.hstack([a, b]), np.hstack([c, d])])

    def _measure(self) -> None:
        """Curves and strips of the whole film, and the ends of their scales."""
        self._value = np.array([m.value for m in self.moments])
        self._reward = np.array([m.reward for m in self.moments])
        self._reset = np.array([m.reset for m in self.moments])
        self._change = {
            part: np.array([m.change[part] for m in self.moments])
            for part in self.moments[0].change
        }
        finite = [c[np.isfinite(c)] for c in self._change.values()]
        together = np.concatenate([*finite, np.zeros(1)])
        self._change_top = max(float(np.percentile(together, 99.5)), 1e-6)
        self._strips = {
            name: np.stack([m.rates[name] for m in self.moments], axis=1)
            for name in self.moments[0].rates
        }
        seen = [m.attention for m in self.moments if m.attention is not None]
        self._attention_top = float(np.percentile(np.stack(seen), 99)) if seen else 1.0

    def _place_bands(self) -> int:
        """Where the matrices stand; returns where they end."""
        self._boxes: list[list[Box]] = []
        if not self.bands:
            return _TOP
        strips = len(self._strips) + 2 + (self.moments[0].attention is not None)
        height = min(300, 432 - 60 * (strips - 1)) // len(self.bands)
        top = _TOP - 2
        for band in self.bands:
            area = (_RIGHT, top + 18, _WIDE, height - 22)
            count, rows, columns = band.matrices.shape
            boxes = tile_boxes(count, rows, columns, area)
            self._boxes.append(boxes)
            top = boxes[-1][1] + boxes[-1][3] + 6
        return top - 6

    def _place_charts(self, after: int) -> list[tuple[_Chart, Box]]:
        """The charts share what the matrices leave."""
        charts: list[_Chart] = [self._strip_chart(name) for name in self._strips]
        if self.moments[0].attention is not None:
            charts.append(self._draw_attention)
        if self.bands:
            charts.append(self._draw_change)
        charts.append(self._draw_value)
        header = 32
        height = min(150, (_BOTTOM - after) // len(charts) - header)
        tops = [after + i * (height + header) + header for i in range(len(charts))]
        return [(c, (_RIGHT, y, _WIDE, height)) for c, y in zip(charts, tops, strict=True)]

    def _draw_still(self, title: str, core: str) -> NDArray[np.uint8]:
        image = Image.new("RGB", SIZE, _BACKGROUND)
        draw = ImageDraw.Draw(image)
        draw.text((_MARGIN, 30), title, _TEXT, _font(20), anchor="lm")
        draw.text((_MARGIN + _LEFT, 30), core, _MUTED, _font(14), anchor="rm")
        if not self.bands:
            draw.text((_RIGHT, 30), "No memory", _TEXT, _font(20), anchor="lm")
            return np.asarray(image)
        weights = self.bands[0].is_weight
        name = "Fast weights W, head by head" if weights else "Memory"
        draw.text((_RIGHT, 30), name, _TEXT, _font(20), anchor="lm")
        self._draw_scale(image, draw)
        for band, boxes in zip(self.bands, self._boxes, strict=True):
            draw.text((_RIGHT, boxes[0][1] - 9), band.label, _MUTED, _font(11), anchor="lm")
        hidden = len(self.moments[0].bands) - len(self.bands)
        if hidden:
            where = (_RIGHT + _WIDE, self._boxes[0][0][1] - 9)
            draw.text(where, f"{hidden} more not shown", _MUTED, _font(11), anchor="rm")
        return np.asarray(image)

    def _draw_scale(self, image: Image.Image, draw: ImageDraw.ImageDraw) -> None:
        width, right = 110, _RIGHT + _WIDE - 44
        ramp = colours(np.linspace(-1, 1, width)[None].repeat(8, 0), -1, 1, DIVERGING)
        image.paste(Image.fromarray(ramp), (right - width, 26))
        draw.text((right + 6, 30), f"{self.scale:.2g}", _MUTED, _font(11), anchor="lm")
        draw.text((right - width - 6, 30), f"-{self.scale:.2g}", _MUTED, _font(11), anchor="rm")

    def _screen_box(self, screen: NDArray[np.uint8]) -> Box:
        width, height = _fitted_size(screen, _LEFT, _SCREEN)
        return _MARGIN + (_LEFT - width) // 2, _TOP + (_SCREEN - height) // 2, width, height

    def _draw_policy(self, draw: ImageDraw.ImageDraw, index: int) -> None:
        moment = self.moments[index]
        x, y, w, h = self._screen_box(moment.screen)
        score, earned = moment.score, 0.0
        for recent in self.moments[max(0, index - 3) : index + 1]:
            if recent.reward:
                score, earned = recent.score, recent.reward
        edge = _GAIN if earned > 0 else _LOSS if earned < 0 else _LINE
        draw.rectangle((x - 1, y - 1, x + w, y + h), outline=edge, width=2 if earned else 1)
        line = _TOP + _SCREEN + 15
        text = f"return {score:.4g}" + (f"   ({earned:+.3g})" if earned else "")
        draw.text((_MARGIN, line), text, edge if earned else _TEXT, _font(14), anchor="lm")
        step = f"step {index + 1}" + (f", game {moment.game + 1}" if moment.game else "")
        draw.text((_MARGIN + _LEFT, line), step, _MUTED, _font(12), anchor="rm")
        self._draw_actions(draw, moment, _TOP + _SCREEN + 30)

    def _draw_actions(self, draw: ImageDraw.ImageDraw, moment: Moment, top: int) -> None:
        count = len(moment.preferences)
        columns = -(-count // 6)
        lines = -(-count // columns)
        width = (_LEFT + 10) // columns
        pitch = min(20, (_BOTTOM - top) // lines)
        named = width >= 90 and pitch >= 9
        label = min(110, max(76, width // 2)) if named else 0
        for action, share in enumerate(moment.preferences):
            column, place = divmod(action, lines)
            x, y = _MARGIN + column * width, top + place * pitch
            chosen = action == moment.action
            if named:
                name = _shortened(self.actions[action], label - 6, 11)
                draw.text((x, y + pitch // 2), name, _TEXT if chosen else _MUTED, _font(11), "lm")
            right = x + width - 10
            box = (x + label, y + 2, right, y + max(3, pitch - 3))
            draw.rectangle(box, fill=_PLOT)
            end = box[0] + round(float(share) * (box[2] - box[0]))
            if end > box[0]:
                draw.rectangle((*box[:2], end, box[3]), fill=_GAIN if chosen else (88, 96, 105))

    def _strip_chart(self, name: str) -> _Chart:
        rows = self._strips[name]
        top = float(f"{max(np.percentile(rows, 99.5), 0.01):.2g}")
        title = {"beta": "beta, the write rate", "decay": "decay, what is kept"}.get(name, name)
        title = f"{title.replace('_', ' ')}: a row per head, last {HISTORY} steps"

        def draw_strip(image: Image.Image, draw: ImageDraw.ImageDraw, box: Box, index: int) -> None:
            shown, missing = self._window(rows, index)
            painted = colours(shown, 0.0, top, SEQUENTIAL)
            painted[:, :missing] = _BACKGROUND
            self._header(draw, box, title, f"mean {rows[:, index].mean():.2f}")
            _key(image, draw, box, f"{top:g}")
            image.paste(Image.fromarray(resized(painted, box[2], box[3])), box[:2])

        return draw_strip

    def _draw_attention(
        self, image: Image.Image, draw: ImageDraw.ImageDraw, box: Box, index: int
    ) -> None:
        attention = self.moments[index].attention
        assert attention is not None
        ago = attention.shape[1] - 1
        title = f"attention now: a row per head, {ago} steps ago to now"
        self._header(draw, box, title, f"colours end at {self._attention_top:.2g}")
        painted = colours(attention, 0.0, self._attention_top, SEQUENTIAL)
        image.paste(Image.fromarray(resized(painted, box[2], box[3])), box[:2])

    def _draw_change(
        self, image: Image.Image, draw: ImageDraw.ImageDraw, box: Box, index: int
    ) -> None:
        weights = self.bands[0].is_weight
        title = "norm of the update of W" if weights else "norm of the change of the memory"
        self._header(draw, box, f"{title}, 0 to {self._change_top:.2g}", "")
        curves = list(self._change.values())[: len(_CURVES)]
        right = box[0] + box[2]
        for i, (part, curve) in reversed(list(enumerate(self._change.items()))):
            if i >= len(_CURVES):
                continue
            now = "" if np.isnan(curve[index]) else f":  {curve[index]:.2g}"
            text = f"{part}{now}"
            draw.text((right, box[1] - 9), text, _CURVES[i], _font(11), anchor="rm")
            right -= round(_font(11).getlength(f"{part}:  00.00")) + 12
        self._plot(image, box, index, curves, 0.0, self._change_top)

    def _draw_value(
        self, image: Image.Image, draw: ImageDraw.ImageDraw, box: Box, index: int
    ) -> None:
        low, high = float(self._value.min()), float(self._value.max())
        pad = 0.05 * (high - low) + 1e-6
        title = f"value estimate, {low:.2g} to {high:.2g}, and rewards"
        self._header(draw, box, title, f"{self._value[index]:.2f}")
        self._plot(image, box, index, [self._value], low - pad, high + pad)
        shown, missing = self._window(self._reward[None], index)
        for place in range(missing, HISTORY):
            reward = shown[0, place]
            if reward:
                x = box[0] + (place + 0.5) * box[2] / HISTORY
                y = box[1] + box[3] - 2
                draw.polygon(
                    [(x - 4, y), (x + 4, y), (x, y - 8)], fill=_GAIN if reward > 0 else _LOSS
                )

    def _header(self, draw: ImageDraw.ImageDraw, box: Box, title: str, value: str) -> None:
        draw.text((box[0], box[1] - 9), title, _MUTED, _font(12), anchor="lm")
        draw.text((box[0] + box[2], box[1] - 9), value, _TEXT, _font(12), anchor="rm")

    def _plot(
        self,
        image: Image.Image,
        box: Box,
        index: int,
        curves: Sequence[NDArray[np.float64]],
        low: float,
        high: float,
    ) -> None:
        """Curves of the last steps, the present one at the right end; drawn twice as large and
        halved, so that they are smooth."""
        width, height = 2 * box[2], 2 * box[3]
        canvas = Image.new("RGB", (width, height), _PLOT)
        draw = ImageDraw.Draw(canvas)
        pitch = width / HISTORY
        resets, missing = self._window(self._reset[None], index)
        for place in np.flatnonzero(resets[0]).tolist():
            if place >= missing:
                draw.line([(place * pitch, 0), (place * pitch, height)], fill=_LINE, width=2)
        for curve, colour in reversed(list(zip(curves, _CURVES, strict=False))):
            shown, missing = self._window(curve[None], index)
            y = (height - 4) * (1 - (shown[0] - low) / (high - low)).clip(0, 1) + 2
            points: list[tuple[float, float]] = []
            for place in range(missing, HISTORY + 1):
                if place == HISTORY or np.isnan(y[place]):  # memories that begin anew: a gap
                    if len(points) > 1:
                        draw.line(points, fill=colour, width=3, joint="curve")
                    points = []
                else:
                    points.append(((place + 0.5) * pitch, float(y[place])))
        image.paste(canvas.reduce(2), box[:2])

    @staticmethod
    def _window(rows: NDArray[Any], index: int) -> tuple[NDArray[Any], int]:
        """The last steps [rows, HISTORY] up to ``index``, and how many of them were before the
        film began."""
        first = index + 1 - HISTORY
        missing = max(0, -first)
        shown = rows[:, max(0, first) : index + 1]
        return np.pad(shown, ((0, 0), (missing, 0))), missing


def _memory_scale(moments: Sequence[Moment], bands: int) -> float:
    """The 99th percentile of |number| over at most 200 moments."""
    some = moments[:: max(1, len(moments) // 200)]
    sizes = [np.abs(band.matrices).ravel() for m in some for band in m.bands[:bands]]
    if not sizes:
        return 1.0
    return max(float(np.percentile(np.concatenate(sizes).astype(np.float32), 99)), 1e-6)


def _fitted_size(screen: NDArray[np.uint8], width: int, height: int) -> tuple[int, int]:
    scale = min(width / screen.shape[1], height / screen.shape[0])
    scale = float(int(scale)) if scale >= 1 else scale
    return max(1, int(scale * screen.shape[1])), max(1, int(scale * screen.shape[0]))


def _fitted(screen: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    return resized(screen, *_fitted_size(screen, width, height))


def _paste(picture: NDArray[np.uint8], part: NDArray[np.uint8], box: Box) -> None:
    left, top, width, height = box
    picture[top : top + height, left : left + width] = part


def _key(image: Image.Image, draw: ImageDraw.ImageDraw, box: Box, top: str) -> None:
    """The colours of a strip from 0 to its end, in its header."""
    right = box[0] + box[2] - 84
    ramp = colours(np.linspace(0, 1, 70)[None].repeat(7, 0), 0, 1, SEQUENTIAL)
    image.paste(Image.fromarray(ramp), (right - 90, box[1] - 13))
    draw.text((right - 95, box[1] - 9), "0", _MUTED, _font(11), anchor="rm")
    draw.text((right - 15, box[1] - 9), top, _MUTED, _font(11), anchor="lm")


def _shortened(text: str, width: int, size: int) -> str:
    while len(text) > 3 and _font(size).getlength(text) > width:
        text = text[:-2].rstrip(".") + "."
    return text


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
