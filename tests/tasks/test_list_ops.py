"""Sequential ListOps: values by recursion, and trees as plain rejection would keep them."""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.tasks import TASKS
from fwp_rl.tasks.list_ops import ListOps, ListOpsConfig

VALUE: dict[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[FIRST": lambda values: values[0],
}


def opened(count: int, depth: int, data_seed: int = 42) -> ListOps:
    """A task of which the test set is looked at."""
    return ListOpsConfig(
        train_size=1, validation_size=1, test_size=count, depth=depth, data_seed=data_seed
    ).open(0)


def expressions(task: ListOps) -> Iterator[tuple[list[str], str]]:
    """The words of each expression of the test set, and its answer."""
    for batch in task.batches("test"):
        last = batch.mask.int().argmax(0)
        assert (batch.mask.sum(0) == 1).all()
        for column, end in enumerate(last.tolist()):
            words = [task.symbols[n] for n in batch.input[: end + 1, column].tolist()]
            yield words, task.answers[batch.target[end, column]]


def read(words: list[str]) -> tuple[int, int, list[int]]:
    """Value and depth of an expression, and how many arguments its operations have, the root's
    first; takes its words away."""
    word = words.pop(0)
    if word.isdigit():
        return int(word), 0, []
    values, depths, inner = [], [], []
    while words[0] != "]":
        value, depth, below = read(words)
        values.append(value)
        depths.append(depth)
        inner += below
    words.pop(0)
    return VALUE[word](values), 1 + max(depths), [len(values), *inner]


@pytest.mark.parametrize("depth", [1, 2, 4, 10, 15, 18])
def test_the_answer_is_the_value_of_a_tree_of_exactly_that_depth(depth: int) -> None:
    seen = set[str]()
    for words, answer in expressions(opened(60, depth)):
        seen.update(words)
        rest = words.copy()
        value, found, arguments = read(rest)
        assert not rest
        assert str(value) == answer
        assert found == depth
        assert set(arguments) <= {2, 3, 4, 5}
    assert len(seen) == 14


def rejected(draw: random.Random, count: int, depth: int) -> list[tuple[int, tuple[int, ...]]]:
    """Tokens and numbers of arguments of the trees that plain rejection keeps."""

    def grow(level: int) -> tuple[int, list[int]]:
        if level > 0 and draw.random() < 0.75:
            return 0, []
        below = [grow(level + 1) for _ in range(draw.randint(2, 5))]
        return 1 + max(x for x, _ in below), [len(below), *(n for _, ns in below for n in ns)]

    kept: list[tuple[int, tuple[int, ...]]] = []
    while len(kept) < count:
        found, arguments = grow(0)
        if found == depth:
            # two tokens of each operation, and a digit for each argument that is none
            tokens = 2 * len(arguments) + sum(arguments) - (len(arguments) - 1)
            kept.append((tokens, tuple(arguments)))
    return kept


def chi_square(a: Sequence[object], b: Sequence[object]) -> tuple[float, float]:
    """Of two samples of the same size, and the 0.1 % point of what it is where they are of one
    distribution, by the normal approximation. What is rare is counted together."""
    counts = Counter(a), Counter(b)
    common = [x for x in counts[0] | counts[1] if counts[0][x] + counts[1][x] >= 20]
    rows = [(counts[0][x], counts[1][x]) for x in common]
    rows.append((len(a) - sum(x for x, _ in rows), len(b) - sum(x for _, x in rows)))
    rows = [row for row in rows if sum(row)]
    freedom = len(rows) - 1
    return sum((x - y) ** 2 / (x + y) for x, y in rows), freedom + 3.3 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("depth", [3])
def test_trees_are_distributed_as_those_that_rejection_keeps(depth: int) -> None:
    count = 1500
    expected = rejected(random.Random(1), count, depth)
    trees = expressions(opened(count, depth))
    found = [(len(words), tuple(read(words.copy())[2])) for words, _ in trees]
    looks = {
        "tokens": lambda tree: tree[0],
        "operations": lambda tree: len(tree[1]),
        "the root's arguments": lambda tree: tree[1][0],
        "the root's arguments and those of the next": lambda tree: tree[1][:2],
        "operations and the last's arguments": lambda tree: (len(tree[1]), tree[1][-1]),
    }
    for name, look in looks.items():
        statistic, limit = chi_square(list(map(look, found)), list(map(look, expected)))
        assert statistic < limit, name


def test_places_of_operations_are_as_the_probabilities_say() -> None:
    """Depth 2 by counting: of a root with n arguments each set of those that are operations, but
    the empty one, and each such operation has digits alone."""
    digits_alone = sum(0.75**n for n in range(2, 6)) / 4
    weight = {
        tuple(is_operation): math.prod(0.25 * digits_alone if x else 0.75 for x in is_operation)
        for n in range(2, 6)
        for is_operation in np.ndindex((2,) * n)
        if any(is_operation)
    }
    count = 8_000
    found = Counter[tuple[int, ...]]()
    for words, _ in expressions(opened(count, depth=2)):
        places, inside = [], 0
        for word in words[1:]:
            if inside == 0 and word != "]":
                places.append(int(word.startswith("[")))
            inside += word.startswith("[") - (word == "]")
        found[tuple(places)] += 1
    assert set(found) <= set(weight)
    expected = {x: count * w / sum(weight.values()) for x, w in weight.items()}
    common = [x for x in expected if expected[x] > 10]
    assert len(common) > 20
    statistic = sum((found[x] - expected[x]) ** 2 / expected[x] for x in common)
    assert statistic < len(common) + 3.3 * math.sqrt(2 * len(common))


def expected_tokens(depth: int) -> float:
    """Mean length of the trees of this depth: for each depth the probability that an argument does
    not exceed it, and its expected tokens in that case times this probability."""

    def operation(within: float, tokens: float) -> tuple[float, float]:
        sizes = [within**n for n in range(2, 6)]
        inner = [n * within ** (n - 1) * tokens for n in range(2, 6)]
        return sum(sizes) / 4, sum(2 * p + t for p, t in zip(sizes, inner, strict=True)) / 4

    within, tokens = 0.75, 0.75
    before = after = operation(0.0, 0.0)
    for _ in range(depth):
        before, after = after, operation(within, tokens)
        within, tokens = 0.75 + 0.25 * after[0], 0.75 + 0.25 * after[1]
    return (after[1] - before[1]) / (after[0] - before[0])


@pytest.mark.parametrize(
    ("depth", "mean", "median", "errors"), [(10, 96.6, 91, (4, 5)), (15, 181.5, 167, (12, 15))]
)
def test_expressions_are_as_long_as_those_of_the_released_generator(
    depth: int, mean: float, median: float, errors: tuple[float, float]
) -> None:
    """Its figures are of 1,000 and of 387 expressions, and as uncertain."""
    lengths = opened(4000, depth).sets["test"].length
    assert mean == pytest.approx(expected_tokens(depth), abs=errors[0])
    assert np.median(lengths) == pytest.approx(median, abs=errors[1])
    standard_error = lengths.std() / len(lengths) ** 0.5
    assert lengths.mean() == pytest.approx(expected_tokens(depth), abs=3.5 * standard_error)


def test_the_answer_is_asked_at_the_last_token_alone() -> None:
    task = ListOpsConfig(train_size=64, depth=3).open(0)
    batch = task.batch(0, 32)
    last = batch.mask.int().argmax(0)
    assert (batch.input.gather(0, last[None]) == task.symbols.index("]")).all()
    assert (batch.mask.sum(0) == 1).all()
    assert last.unique().numel() > 5


def test_no_answer_is_common() -> None:
    answers = Counter(answer for _, answer in expressions(opened(3000, depth=10)))
    (most, count), *_ = answers.most_common()
    assert most == "9"
    assert count / 3000 == pytest.approx(0.2, abs=0.03)
    assert min(answers.values()) > 100


def test_it_is_found_by_name_and_scored_by_accuracy() -> None:
    assert TASKS["list-ops"] is ListOpsConfig
    assert ListOpsConfig(depth=15).title() == "list_ops, depth 15"
    task = opened(20, depth=2)
    torch.manual_seed(0)
    model = task.model(FeedforwardConfig())
    with torch.no_grad():
        metrics = task.evaluate(model.eval(), "test")
    assert metrics[task.measure] == metrics["sequence_accuracy"]
