"""State tracking, against objects that are counted and moved one by one."""

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest

from fwp_rl.tasks import TASKS

Follow = Any
"""From symbols to the answer after each."""


def parity(symbols: tuple[int, ...]) -> list[int]:
    return [sum(symbols[: t + 1]) % 2 for t in range(len(symbols))]


def signs(modulus: int) -> Follow:
    step = {0: 0, 1: 1, 2: -1}
    return lambda symbols: [
        sum(step[s] for s in symbols[: t + 1]) % modulus for t in range(len(symbols))
    ]


def digits(modulus: int) -> Follow:
    return lambda symbols: [sum(symbols[: t + 1]) % modulus for t in range(len(symbols))]


def in_order(n: int) -> list[list[int]]:
    """All orders of n objects in alphabetical order, made by insertion."""
    orders: list[list[int]] = [[]]
    for new in range(n):
        orders = [[*o[:i], new, *o[i:]] for o in orders for i in range(len(o) + 1)]
    return sorted(orders)


def moves(n: int, kind: str) -> list[list[int]]:
    """For each symbol: where the object goes that is at place 0, 1, ..."""
    if kind == "elements":
        return in_order(n)
    if kind == "generators":
        return [[1, 0, *range(2, n)], [(place + 1) % n for place in range(n)]]
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    return [[j if p == i else i if p == j else p for p in range(n)] for i, j in pairs]


def permuted(n: int, kind: str) -> Follow:
    orders, symbols_mean = in_order(n), moves(n, kind)

    def follow(symbols: tuple[int, ...]) -> list[int]:
        at = list(range(n))
        """object at each place"""
        answers = []
        for symbol in symbols:
            after = [0] * n
            for place, thing in enumerate(at):
                after[symbols_mean[symbol][place]] = thing
            at = after
            answers.append(orders.index([at.index(thing) for thing in range(n)]))
        return answers

    return follow


CASES: dict[str, tuple[str, dict[str, Any], Follow]] = {
    "parity": ("parity", {}, parity),
    "signs": ("modular_counting", {"modulus": 5, "steps": "signs"}, signs(5)),
    "digits": ("modular_counting", {"modulus": 4}, digits(4)),
    **{
        f"S{n}, {kind}": ("permutations", {"objects": n, "steps": kind}, permuted(n, kind))
        for n in (3, 4, 5)
        for kind in ("elements", "generators", "swaps")
    },
}


@pytest.mark.parametrize("case", CASES)
def test_the_answers_are_those_of_a_slow_walk(case: str) -> None:
    name, options, follow = CASES[case]
    batch = TASKS[name](length=13, **options).open(2).batch(0, 30)
    for b in range(30):
        assert batch.target[:, b].tolist() == follow(tuple(batch.input[:, b].tolist()))
    assert batch.mask.all()


@pytest.mark.parametrize("case", CASES)
def test_the_last_answer_alone_may_be_asked_for(case: str) -> None:
    name, options, follow = CASES[case]
    batch = TASKS[name](length=6, asked="last", **options).open(2).batch(0, 9)
    assert batch.mask[-1].all()
    assert not batch.mask[:-1].any()
    for b in range(9):
        assert batch.target[-1, b] == follow(tuple(batch.input[:, b].tolist()))[-1]


@pytest.mark.parametrize("case", ["parity", "signs", "digits", "S3, elements", "S3, swaps"])
@pytest.mark.parametrize("asked", ["every", "last"])
def test_chance_is_what_the_best_constant_answer_gets_over_all_sequences(
    case: str, asked: str
) -> None:
    name, options, follow = CASES[case]
    config = TASKS[name](asked=asked, **options)
    symbols = config.open(1).inputs
    for length in (1, 2, 4):
        said: Counter[int] = Counter()
        for sequence in product(range(symbols), repeat=length):
            answers = follow(sequence)
            said.update(answers if asked == "every" else answers[-1:])
        best = max(said.values()) / said.total()
        assert config.chance_at(length) == pytest.approx(best)


def test_symbols_are_uniform_and_independent_of_the_symbols_before() -> None:
    batch = TASKS["modular_counting"](length=2, modulus=3).open(3).batch(0, 9000)
    pairs = 3 * batch.input[0].numpy() + batch.input[1].numpy()
    assert abs(np.bincount(pairs, minlength=9) / 9000 - 1 / 9).max() < 5 * np.sqrt(0.1 / 9000)


def test_titles_say_which_group_and_which_symbols() -> None:
    def title(name: str, **options: Any) -> str:
        return TASKS[name](**options).title()

    assert title("parity") == "parity"
    assert title("parity", asked="last") == "parity, last"
    assert title("modular_counting", modulus=7) == "modular_counting 7"
    assert title("modular_counting", steps="signs") == "modular_counting 5, signs"
    assert title("permutations", objects=5, steps="swaps", asked="last") == (
        "permutations S5, swaps, last"
    )
