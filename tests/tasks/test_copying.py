"""Copying, against a reader that goes through a sequence symbol by symbol."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from fwp_rl.config import ConfigError
from fwp_rl.tasks import TASKS

TASK_NAMES = ("copy", "selective_copy")


def oracle(symbols: list[int], known: int) -> dict[int, int]:
    """Step → answer: a signal asks for the first symbol that was not asked for yet."""
    blank, signal = known, known + 1
    queue: list[int] = []
    answers = {}
    for step, symbol in enumerate(symbols):
        if symbol == signal:
            answers[step] = queue.pop(0)
        elif symbol != blank:
            queue.append(symbol)
    assert not queue, "a symbol is never asked for"
    return answers


@pytest.mark.parametrize("name", TASK_NAMES)
@pytest.mark.parametrize("items", [1, 5])
def test_the_answers_are_the_symbols_in_their_order(name: str, items: int) -> None:
    task = TASKS[name](length=11, items=items, symbols=4).open(2)
    batch = task.batch(0, 40)
    for b in range(40):
        inputs, target, mask = (x[:, b].tolist() for x in (batch.input, batch.target, batch.mask))
        answers = oracle(inputs, 4)
        assert len(answers) == items
        assert {t: target[t] for t, asked in enumerate(mask) if asked} == answers


def test_what_is_copied_stands_first_and_is_asked_for_last() -> None:
    batch = TASKS["copy"](length=7, items=3, symbols=4).open(2).batch(0, 20)
    assert batch.input.shape == (3 + 7 + 3, 20)
    assert (batch.input[:3] < 4).all()
    assert (batch.input[3:10] == 4).all()
    assert (batch.input[10:] == 5).all()
    assert batch.mask[10:].all()
    assert not batch.mask[:10].any()


def test_scattered_symbols_stand_at_any_place_alike() -> None:
    length, items, size = 10, 4, 2000
    batch = TASKS["selective_copy"](length=length, items=items, symbols=4).open(2).batch(0, size)
    assert batch.input.shape == (length + items, size)
    shown = (batch.input[:length] < 4).numpy()
    assert (shown.sum(0) == items).all()
    share = shown.mean(1)
    assert abs(share - items / length).max() < 5 * np.sqrt(0.4 * 0.6 / size)
    # any two places go together alike: 4 · 3 / (10 · 9) of the sequences have both
    both = (shown.astype(float) @ shown.T.astype(float)) / size
    apart = both[~np.eye(length, dtype=bool)]
    assert abs(apart - 12 / 90).max() < 5 * np.sqrt(0.133 * 0.867 / size)


@pytest.mark.parametrize("name", TASK_NAMES)
def test_symbols_are_uniform_at_every_turn_and_independent(name: str) -> None:
    size = 4000
    batch = TASKS[name](length=8, items=3, symbols=4).open(5).batch(0, size)
    said = batch.target[-3:].numpy()
    for turn in said:
        assert abs(np.bincount(turn, minlength=4) / size - 0.25).max() < 5 * np.sqrt(0.19 / size)
    pairs = Counter(zip(said[0].tolist(), said[1].tolist(), strict=True))
    assert len(pairs) == 16
    assert max(abs(n / size - 1 / 16) for n in pairs.values()) < 5 * np.sqrt(0.06 / size)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"items": 9, "length": 8}, "items: got 9, expected at most the shortest length = 8"),
        ({"items": 5, "length": 8, "min_length": 4}, "items: got 5, .* shortest length = 4"),
        ({"symbols": 1}, "symbols: got 1, expected 2 to"),
        ({"items": 0}, "items: got 0, expected 1 to"),
    ],
)
def test_what_cannot_be_scattered_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TASKS["selective_copy"](**options)


def test_more_symbols_than_blanks_can_be_copied() -> None:
    batch = TASKS["copy"](items=9, length=1).open(1).batch(0, 2)
    assert batch.mask.sum() == 18
