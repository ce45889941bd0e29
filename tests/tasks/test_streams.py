"""How a text is cut: every token is asked for once, after the token before it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwp_rl.tasks.base import TaskBatch
from fwp_rl.tasks.streams import Streams, windows
from fwp_rl.tasks.text import Text

FIRST = 999


def text(count: int, documents: tuple[int, ...] = ()) -> Text:
    """Tokens that are their own positions, from 0 on."""
    return Text(
        path=Path("a"),
        tokens=np.arange(count, dtype=np.uint16),
        documents=np.array(documents, np.int64),
        first=FIRST,
        characters=count,
        size=count,
        sha256="",
    )


def asked(batch: TaskBatch) -> list[int]:
    """The positions that a batch asks for, each after what comes before it."""
    target, before = batch.target[batch.mask], batch.input[batch.mask]
    expected = (target - 1).masked_fill(target == 0, FIRST)
    np.testing.assert_array_equal(before, expected)
    positions: list[int] = target.tolist()
    return positions


@settings(deadline=None)
@given(count=st.integers(1, 200), size=st.integers(1, 12), length=st.integers(1, 50))
def test_streams_ask_for_every_token_once(count: int, size: int, length: int) -> None:
    streams = Streams(text(count), size, length, documents=False)
    batches = [streams.segment(n) for n in range(streams.segments)]
    positions = [n for batch in batches for n in asked(batch)]
    assert sorted(positions) == list(range(count))
    assert [len(batch.mask) for batch in batches[:-1]] == [length] * (len(batches) - 1)
    assert batches[0].reset[0].all()
    assert sum(int(batch.reset.sum()) for batch in batches) == size


def test_a_stream_goes_on_where_its_last_segment_ended() -> None:
    streams = Streams(text(20), 3, 4, documents=False)
    first, second = streams.segment(0), streams.segment(1)
    assert first.target.T.tolist() == [[0, 1, 2, 3], [7, 8, 9, 10], [14, 15, 16, 17]]
    assert second.input.T.tolist() == [[3, 4, 5], [10, 11, 12], [17, 18, 19]]
    assert second.target.T.tolist() == [[4, 5, 6], [11, 12, 13], [18, 19, 0]]
    assert second.mask.sum(0).tolist() == [3, 3, 2]


@pytest.mark.parametrize("documents", [False, True])
def test_documents_reset_where_they_begin(documents: bool) -> None:
    streams = Streams(text(24, (0, 5, 6, 12, 23)), 2, 5, documents=documents)
    positions = [
        int(batch.target[step, column])
        for batch in map(streams.segment, range(streams.segments))
        for step, column in batch.reset.nonzero().tolist()
    ]
    assert sorted(positions) == ([0, 5, 6, 12, 23] if documents else [0, 12])


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(1, 120),
    length=st.integers(1, 30),
    stride=st.integers(1, 30),
    at_once=st.integers(1, 9),
)
def test_windows_ask_for_every_token_once(
    count: int, length: int, stride: int, at_once: int
) -> None:
    stride = min(stride, length)
    positions = []
    for batch in windows(
        text(count), length=length, stride=stride, at_once=at_once, documents=False
    ):
        assert batch.reset[0].all()
        assert not batch.reset[1:].any()
        positions += asked(batch)
        for column in range(batch.mask.shape[1]):
            wanted = batch.target[batch.mask[:, column], column].tolist()
            context = [n - int(batch.target[0, column]) for n in wanted]
            if wanted[0] >= length:  # not of the first window
                assert length - stride <= min(context)
                assert max(context) <= length - 1
    assert sorted(positions) == list(range(count))
