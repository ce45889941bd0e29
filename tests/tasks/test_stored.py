"""Sequences that are made once: how they are read, and what a batch of them looks like."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fwp_rl.config import ConfigError
from fwp_rl.tasks import TaskBatch
from fwp_rl.tasks.list_ops import ListOpsConfig
from fwp_rl.tasks.stored import NOTHING, Sequences, StoredTask, StoredTaskConfig

TRAIN, VALIDATION = 23, 200


def numbered(draw: np.random.Generator, count: int) -> Sequences:
    """Sequence n is 1 to 9 times its number, and asked for it at its end."""
    length = draw.integers(1, 10, size=count)
    symbols = np.repeat(np.arange(count), length)
    target = np.full(len(symbols), NOTHING)
    target[length.cumsum() - 1] = np.arange(count)
    return Sequences(input=symbols, target=target, length=length)


def task(seed: int = 0, sorted_batches: int = 1, data_seed: int = 42) -> StoredTask:
    config = StoredTaskConfig(
        train_size=TRAIN,
        validation_size=VALIDATION,
        test_size=5,
        sorted_batches=sorted_batches,
        data_seed=data_seed,
    )
    return StoredTask(config, seed, numbered)


def numbers(batch: TaskBatch) -> Tensor:
    """Which sequences are the columns."""
    return batch.input[0]


def same(a: TaskBatch, b: TaskBatch) -> bool:
    return all(torch.equal(getattr(a, x), getattr(b, x)) for x in ("input", "target", "mask"))


@pytest.mark.parametrize("sorted_batches", [1, 3])
def test_every_epoch_reads_each_sequence_once(sorted_batches: int) -> None:
    """23 sequences in batches of 4: in 69 batches there are 12 epochs."""
    reader = task(sorted_batches=sorted_batches)
    read = torch.stack([numbers(reader.batch(step, 4)) for step in range(69)])
    assert read.flatten().bincount().tolist() == [12] * TRAIN
    if sorted_batches == 1:
        for epoch in range(12):
            begin, end = epoch * TRAIN, (epoch + 1) * TRAIN
            inside = read[-(-begin // 4) : end // 4].flatten()
            assert len(inside) > 4 * 4
            assert len(inside.unique()) == len(inside)


@pytest.mark.parametrize("sorted_batches", [1, 3])
def test_a_batch_is_a_function_of_step_and_seed(sorted_batches: int) -> None:
    forwards, backwards, other = (task(seed, sorted_batches) for seed in (5, 5, 6))
    first = [forwards.batch(step, 4) for step in range(20)]
    again = [backwards.batch(step, 4) for step in reversed(range(20))][::-1]
    assert all(map(same, first, again))
    assert not any(same(x, other.batch(step, 4)) for step, x in enumerate(first))


def test_the_seed_of_the_run_does_not_change_the_sequences() -> None:
    one, two, others = task(1), task(2), task(1, data_seed=43)
    for part in ("train", "validation", "test"):
        lengths = [x.sets[part].length for x in (one, two, others)]
        assert np.array_equal(lengths[0], lengths[1])
        assert not np.array_equal(lengths[0], lengths[2])


@pytest.mark.parametrize("sorted_batches", [1, 3])
def test_sequences_are_padded_at_their_end_and_nothing_is_asked_there(sorted_batches: int) -> None:
    reader = task(sorted_batches=sorted_batches)
    lengths = torch.from_numpy(reader.sets["train"].length)
    for step in range(8):
        batch = reader.batch(step, 5)
        length = lengths[numbers(batch)]
        assert len(batch.input) == length.max()
        assert batch.reset[0].all()
        assert not batch.reset[1:].any()
        for column, n in enumerate(length):
            assert (batch.input[:n, column] == numbers(batch)[column]).all()
            assert batch.mask[:, column].nonzero().tolist() == [[n - 1]]
            assert batch.target[n - 1, column] == numbers(batch)[column]


def test_sorted_batches_have_less_padding() -> None:
    def steps(sorted_batches: int) -> int:
        reader = task(sorted_batches=sorted_batches)
        return sum(len(reader.batch(step, 4).input) for step in range(60))

    assert steps(10) < 0.8 * steps(1)


def test_sorted_batches_do_not_come_by_length() -> None:
    lengths = [len(task(sorted_batches=5).batch(step, 4).input) for step in range(50)]
    by_place = np.reshape(lengths, (10, 5))
    assert (np.diff(by_place) < 0).any(1).sum() > 5  # most of ten permutations of five fall


def test_an_evaluation_reads_each_sequence_of_a_split_once() -> None:
    batches = list(task().batches("validation"))
    assert torch.cat([numbers(x) for x in batches]).sort().values.tolist() == [*range(VALIDATION)]
    assert len(batches) > 1
    assert len(next(iter(task().batches("test"))).input[0]) == 5


def test_what_cannot_be_is_refused() -> None:
    for options in ({"train_size": 0}, {"sorted_batches": 0}, {"data_seed": -1}, {"depth": 19}):
        (name,) = options
        with pytest.raises(ConfigError, match=f"^{name}: got"):
            ListOpsConfig(**options)
