"""Dropout: where it acts, what it draws from, and that it leaves everything else as it was."""

import dataclasses
import threading
from typing import Any

import pytest
import torch
from cases import MEMORIES, make, with_resets
from torch import Tensor, nn

from fwp_rl.config import ConfigError
from fwp_rl.cores import CORES, Core, build_core
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.dropout import Dropout, draws_of_parts, dropout_draws
from fwp_rl.cores.rnn import LSTMConfig
from fwp_rl.types import State

every_kind = pytest.mark.parametrize("name", sorted(CORES.keys() & MEMORIES))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dropping(name: str, **options: Any) -> tuple[Core, Core, Tensor, State, Tensor]:
    """A core without dropout, the same with it, and what both are called with."""
    config: Any = MEMORIES[name]
    core, x, state, reset = make(config)
    other = build_core(dataclasses.replace(config, dropout=0.5, **options), x.shape[-1])
    other.load_state_dict(core.state_dict())
    return core, other, x, state, with_resets(reset)


def test_numbers_are_dropped_or_scaled_and_their_mean_is_kept() -> None:
    x = torch.ones(100_000, requires_grad=True)
    with dropout_draws(generator()):
        y = Dropout(0.2)(x)
    assert set(y.tolist()) == {0.0, 1.25}
    assert y.mean().item() == pytest.approx(1, abs=0.01)  # 6 standard errors
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, y)


def test_a_generator_fixes_the_masks_and_nothing_else_is_drawn() -> None:
    x = torch.ones(50)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with dropout_draws(generator()):
        first, second = Dropout(0.5)(x), Dropout(0.5)(x)
    with dropout_draws(generator()):
        assert torch.equal(Dropout(0.5)(x), first)
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_the_seed_of_torch_fixes_the_masks() -> None:
    x, found = torch.ones(50), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(Dropout(0.5)(x))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_each_thread_has_its_own_generator() -> None:
    """Parts of a batch, by turns in two threads, draw what they draw one after the other."""
    x, drop = torch.ones(20), Dropout(0.5)
    turns = threading.Barrier(2, timeout=30)

    def draws(seed: int, together: bool) -> list[Tensor]:
        found = []
        with dropout_draws(generator(seed)):
            for _ in range(5):
                if together:
                    turns.wait()
                found.append(drop(x))
        return found

    alone = [torch.stack(draws(seed, together=False)) for seed in (1, 2)]
    beside: dict[int, Tensor] = {}
    threads = [
        threading.Thread(target=lambda s=seed: beside.update({s: torch.stack(draws(s, True))}))
        for seed in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(beside[1], alone[0])
    assert torch.equal(beside[2], alone[1])


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_what_is_not_dropped_is_handed_on_itself(p: float) -> None:
    x, drop = torch.ones(4), Dropout(p)
    assert Dropout(0.0)(x) is x
    assert drop.eval()(x) is x
    with torch.no_grad():
        assert drop.train()(x) is x


@every_kind
def test_a_core_drops_only_where_it_learns(name: str) -> None:
    core, other, *inputs = dropping(name)
    expected, state = core(*inputs)
    with torch.no_grad():
        assert torch.equal(other(*inputs)[0], expected)  # acting
    learned, _ = other(*inputs)
    assert not torch.allclose(learned, expected)
    y, after = other.eval()(*inputs)
    assert torch.equal(y, expected)
    assert all(torch.equal(a, b) for a, b in zip(after, state, strict=True))


@every_kind
def test_a_core_draws_from_the_generator_that_is_handed_down(name: str) -> None:
    _, core, *inputs = dropping(name, gradient_horizon=4)
    found = []
    for seed in (1, 1, 2):
        with dropout_draws(generator(seed)):
            y, _ = core(*inputs)
        gradients = torch.autograd.grad(y.square().sum(), list(core.parameters()))
        assert all(x.isfinite().all() for x in gradients)
        found.append(y)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_block_drops_what_the_memory_gives_and_the_feed_forward_part_twice() -> None:
    """The block's equation with masks that are drawn here, one after the other."""
    _, core, x, state, reset = dropping("delta_net")
    draws, h = generator(), core.input_projection(x)
    leaves = list(state)

    def dropped(y: Tensor) -> Tensor:
        return y * torch.empty_like(y).bernoulli_(0.5, generator=draws) * 2

    for block in core.blocks:  # type: ignore[union-attr]
        read, _ = block.memory(block.norm(h), (leaves.pop(0),), reset)
        h = h + dropped(read @ block.out.weight.T)
        norm, wide, _, narrow, _ = block.feedforward
        h = h + dropped(narrow(dropped(wide(norm(h)).relu())))
    with dropout_draws(generator()):
        torch.testing.assert_close(core(x, state, reset)[0], h)


def test_a_recurrent_net_drops_what_it_is_given_and_what_it_gives() -> None:
    config = LSTMConfig(hidden_size=6, dropout=0.5)
    core = build_core(config, 4)
    x, reset = torch.randn(5, 3, 4), torch.zeros(5, 3, dtype=torch.bool)
    plain = nn.LSTM(4, 6)
    for name, weight in core.named_parameters():
        setattr(plain, name.removeprefix("rnn."), weight)
    draws = generator()
    given = x * torch.empty_like(x).bernoulli_(0.5, generator=draws) * 2
    expected, _ = plain(given)
    expected = expected * torch.empty_like(expected).bernoulli_(0.5, generator=draws) * 2
    with dropout_draws(generator()):
        y, _ = core(x, core.initial_state(3), reset)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_an_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"dropout: got .*, expected 0 to 0\.99"):
        DeltaNetConfig(dropout=share)


def test_parts_of_a_batch_have_their_own_draws_and_where_none_is_needed_none_is_made() -> None:
    x = torch.ones(50)
    drop = nn.Sequential(nn.Linear(50, 50), Dropout(0.5))
    last = drop[1]

    def masks() -> list[Tensor]:
        torch.manual_seed(4)
        draws = draws_of_parts(drop, 2)
        found = {}
        for part in (1, 0):  # in any order
            with draws(part):
                found[part] = last(x)
        return [found[0], found[1]]

    first, second = masks()
    assert not torch.equal(first, second)
    assert all(map(torch.equal, masks(), [first, second]))
    for nothing in (drop.eval(), nn.Sequential(nn.Linear(1, 1), Dropout(0.0))):
        before = torch.get_rng_state()
        with draws_of_parts(nothing, 2)(0):
            assert nothing[1](x) is x
        assert torch.equal(torch.get_rng_state(), before)
