"""A text as batches: contiguous streams in segments for training and full context, and sliding
windows for evaluation with a limited one.

The input of a step is the token before the one that it predicts. Every token of a text is predicted
once, the first after ``Text.first``: nothing is trimmed.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from fwp_rl.tasks.base import TaskBatch
from fwp_rl.tasks.text import Text

__all__ = ["Streams", "windows"]


class Streams:
    """A text cut into B streams of equal length, the last ones shorter where it does not divide.
    A stream is read in segments, the last of which may be shorter."""

    def __init__(self, text: Text, size: int, segment_length: int, *, documents: bool) -> None:
        """
        size       B
        documents  forget at each beginning of a document, too
        """
        self._text = text
        self.length = -(-len(text) // size)
        """Tokens of a stream."""
        self._starts = np.arange(size) * self.length
        self._segment_length = segment_length
        self._documents = documents
        self.segments = -(-self.length // segment_length)

    def segment(self, index: int) -> TaskBatch:
        """The batch of a segment, 0 being the first. What lies behind a stream's end is masked."""
        offset = index * self._segment_length
        length = min(self._segment_length, self.length - offset)
        starts = self._starts + offset
        stops = np.minimum(self._starts + self.length, len(self._text))
        batch = _batch(self._text, starts, stops, length, documents=self._documents)
        batch.reset[0] |= index == 0
        return batch


def windows(
    text: Text, *, length: int, stride: int, at_once: int, documents: bool
) -> Iterator[TaskBatch]:
    """Windows of a text, each ``stride`` tokens behind the one before, in batches of ``at_once``.

    The first window asks for all of its tokens, every other one for its last ``stride``: each token
    of the text is asked for once and, but for those of the first window, with a context of
    length − stride to length − 1 tokens. With a stride of 1 it is the papers' evaluation.
    """
    count = 1 + max(0, -(-(len(text) - length) // stride))
    end = np.array(len(text))
    for first in range(0, count, at_once):
        starts = np.arange(first, min(first + at_once, count)) * stride
        steps = min(length, len(text))
        batch = _batch(text, starts, end, steps, documents=documents)
        batch.reset[0] = True
        batch.mask[: length - stride, int(first == 0) :] = False
        yield batch


def _batch(
    text: Text,
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    length: int,
    *,
    documents: bool,
) -> TaskBatch:
    """The tokens from ``starts`` [B] on, as targets, as far as ``stops``."""
    stops = np.broadcast_to(stops, starts.shape)
    tokens = np.zeros((len(starts), length + 1), np.int64)
    reset = np.zeros((len(starts), length), np.bool_)
    for row, start, stop in zip(tokens, starts.tolist(), stops.tolist(), strict=True):
        begin, end = max(start - 1, 0), min(start + length, stop)
        if end > start:  # else the stream is over
            row[begin - start + 1 : end - start + 1] = text.tokens[begin:end]
        if start == 0:
            row[0] = text.first
    if documents:
        for column, start in enumerate(starts.tolist()):
            low, high = np.searchsorted(text.documents, (start, start + length))
            reset[column, text.documents[low:high] - start] = True
    mask = starts[:, None] + np.arange(length) < stops[:, None]
    time_major = tokens.T.copy()
    return TaskBatch(
        input=torch.from_numpy(time_major[:-1]),
        target=torch.from_numpy(time_major[1:]),
        mask=torch.from_numpy(mask.T.copy()),
        reset=torch.from_numpy(reset.T.copy()),
    )
