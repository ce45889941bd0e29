"""Associative recall, against a reader with a dictionary."""

from typing import Any

import numpy as np
import pytest

from fwp_rl.config import ConfigError
from fwp_rl.tasks import TASKS, TaskBatch


def made(size: int, seed: int = 1, **options: Any) -> TaskBatch:
    return TASKS["associative_recall"](**options).open(seed).batch(0, size)


def oracle(symbols: list[int], known: int) -> tuple[dict[int, int], dict[int, int], list[int]]:
    """What is stored, key → value; what is asked, step → answer; and the keys asked for."""
    stored: dict[int, int] = {}
    answers: dict[int, int] = {}
    asked: list[int] = []
    step = 0
    while step < len(symbols):
        symbol = symbols[step]
        if symbol < known and symbol not in stored:
            value = symbols[step + 1]
            assert known <= value < 2 * known, "a new key is followed by its value"
            stored[symbol] = value - known
            step += 1
        elif symbol < known:
            answers[step] = stored[symbol]
            asked.append(symbol)
        else:
            assert symbol == 2 * known, "a value stands only behind its key"
        step += 1
    return stored, answers, asked


@pytest.mark.parametrize("gaps", ["uniform", "power_law"])
@pytest.mark.parametrize(("pairs", "queries"), [(1, 1), (5, 5), (6, 2)])
def test_a_query_asks_for_the_value_of_a_key_that_was_shown(
    pairs: int, queries: int, gaps: str
) -> None:
    batch = made(50, pairs=pairs, queries=queries, symbols=7, length=9, gaps=gaps)
    assert batch.input.shape == (2 * pairs + 9, 50)
    for b in range(50):
        inputs, target, mask = (x[:, b].tolist() for x in (batch.input, batch.target, batch.mask))
        stored, answers, asked = oracle(inputs, 7)
        assert len(stored) == pairs
        assert len(set(asked)) == len(asked) == queries, "each key is asked for once at most"
        assert min(answers) >= 2 * pairs
        assert {t: target[t] for t, here in enumerate(mask) if here} == answers


def test_keys_values_and_what_is_asked_are_uniform() -> None:
    size, symbols, pairs = 4000, 5, 3
    batch = made(size, pairs=pairs, queries=1, symbols=symbols, length=4)
    inputs = batch.input.numpy()
    near = 5 * np.sqrt(0.25 / size)
    for place in range(pairs):
        keys, values = inputs[2 * place], inputs[2 * place + 1] - symbols
        for drawn in (keys, values):
            assert abs(np.bincount(drawn, minlength=symbols) / size - 1 / symbols).max() < near
    asked = batch.mask.numpy()
    query = inputs.T[asked.T]
    order = (inputs[0 : 2 * pairs : 2] == query).argmax(0)
    assert abs(np.bincount(order, minlength=pairs) / size - 1 / pairs).max() < near


def test_queries_stand_at_any_place_alike() -> None:
    size, length = 4000, 6
    asked = made(size, pairs=3, queries=2, length=length).mask.numpy()[6:]
    assert abs(asked.mean(1) - 2 / length).max() < 5 * np.sqrt(0.22 / size)


def test_queries_by_the_power_law_come_soon() -> None:
    size, length = 8000, 5
    weight = np.arange(1, length + 1) ** -0.99
    p = weight / weight.sum()
    near = 5 * np.sqrt(0.25 / size)
    one = made(size, pairs=2, queries=1, length=length, gaps="power_law").mask.numpy()[4:]
    assert abs(one.mean(1) - p).max() < near
    # two places one after the other, the second among those that are left
    expected = [
        p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(length) if j != i) for i in range(length)
    ]
    two = made(size, pairs=2, queries=2, length=length, gaps="power_law").mask.numpy()[4:]
    assert abs(two.mean(1) - expected).max() < near


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pairs": 17, "symbols": 16}, "pairs: got 17, expected at most symbols = 16"),
        ({"pairs": 4, "queries": 5}, "queries: got 5, expected at most pairs = 4"),
        ({"length": 3}, "queries: got 4, expected at most the shortest length = 3"),
        ({"min_length": 2}, "queries: got 4, expected at most the shortest length = 2"),
        ({"gaps": "long"}, "gaps: got 'long', expected one of uniform, power_law"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TASKS["associative_recall"](**options)
