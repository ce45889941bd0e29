"""Associative retrieval: its sequences, the published model against its equations as a slow loop,
cores in its place, evaluations, and what is refused."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import elu

from fwp_rl.agents.supervised import SupervisedConfig
from fwp_rl.config import ConfigError
from fwp_rl.cores import CORES
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.fast_weight_block import drawn_once
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.cores.rnn import LSTMConfig
from fwp_rl.experiment import train
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.presets import load_preset
from fwp_rl.runs.results import task_result
from fwp_rl.tasks import TaskBatch
from fwp_rl.tasks.retrieval import RetrievalConfig
from fwp_rl.tasks.retrieval_model import PublishedModel

SETTINGS = ("capacity", "update_rule")
MODELS: list[dict[str, Any]] = [
    {"rule": rule, "feature_map": feature_map}
    for rule in ("sum", "delta")
    for feature_map in ("elu1", "dpfp1", "dpfp2", "dpfp3", "favor")
] + [{"feature_map": "softmax"}]
every_model = pytest.mark.parametrize(
    "options", MODELS, ids=lambda x: "-".join(map(str, x.values()))
)
NO_CORE = FeedforwardConfig()


def pairs_of(steps: Tensor, symbols: int) -> list[tuple[int, int]]:
    """Key and value of each step of one sequence."""
    return [(int(x) % symbols, int(x) // symbols - 1) for x in steps]


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_last_value_of_a_key_is_asked_for(setting: Any) -> None:
    S, size = 7, 50
    batch = RetrievalConfig(setting=setting, symbols=S).open(3).batch(11, size)
    length = S if setting == "capacity" else 2 * S
    assert batch.input.shape == batch.target.shape == (length + 1, size)
    assert batch.mask.nonzero()[:, 0].tolist() == [length] * size
    assert batch.reset.nonzero()[:, 0].tolist() == [0] * size
    returned = 0
    for column in range(size):
        *pairs, (query, nothing) = pairs_of(batch.input[:, column], S)
        assert nothing == -1
        keys, values = zip(*pairs, strict=True)
        if setting == "capacity":
            assert sorted(keys) == sorted(values) == list(range(S))
        assert {*keys, *values} <= set(range(S))
        last = dict(pairs)  # a later one replaces an earlier
        assert batch.target[-1, column] == last[query]
        returned += keys.count(query) > 1
    assert (returned > 0) == (setting == "update_rule")


def test_a_step_has_its_own_batch_and_always_the_same() -> None:
    task = RetrievalConfig().open(1)
    first, again, later = task.batch(5, 4), task.batch(5, 4), task.batch(6, 4)
    assert torch.equal(first.input, again.input)
    assert not torch.equal(first.input, later.input)
    other = RetrievalConfig().open(2)
    assert not torch.equal(first.input, other.batch(5, 4).input)


def phi(name: str, x: Tensor, omega: Tensor | None) -> Tensor:
    if name == "elu1":
        return elu(x) + 1
    if name == "favor":
        assert omega is not None
        u = omega @ x
        scale = torch.exp(-x @ x / 2) / math.sqrt(2 * len(omega))
        return torch.cat([u.exp(), (-u).exp()]) * scale
    z = torch.cat([x.clamp(min=0), (-x).clamp(min=0)])
    before = [[i - j for i in range(len(z))] for j in range(1, int(name[-1]) + 1)]
    return torch.cat([z * z[places] for places in before])


def answer(model: PublishedModel, pairs: list[tuple[int, int]], query: int, name: str) -> Tensor:
    """y of the paper's equations, one sequence and one step at a time."""
    S = model.symbols
    one_hot = torch.eye(S, dtype=torch.float64)
    E = model.embedding.weight
    omega = None if model.phi is None else model.phi.projection
    q = model.query(E[query])
    keys = [model.key(torch.cat([one_hot[v], E[k]])) for k, v in pairs]
    if name == "softmax":
        weights = torch.stack([k @ q / 8 for k in keys]).softmax(0)
        return sum(w * one_hot[v] for w, (_, v) in zip(weights, pairs, strict=True))  # type: ignore[return-value]
    q = phi(name, q, omega)
    features = [phi(name, k, omega) for k in keys]
    W = torch.zeros(S, len(q), dtype=torch.float64)
    if model.rule == "sum":
        for k, (_, v) in zip(features, pairs, strict=True):
            W = W + torch.outer(one_hot[v], k)
        return (W @ q) / (sum(features) @ q + 1e-6)
    assert model.beta is not None
    for k, (key, v) in zip(features, pairs, strict=True):
        beta = torch.sigmoid(model.beta(torch.cat([one_hot[v], E[key]])))
        k = k / k.sum()
        old = W @ k
        W = W - torch.outer(old, k) + torch.outer(beta * one_hot[v] + (1 - beta) * old, k)
    return W @ q / (q.sum() + 1e-6)


def opened(setting: Any = "update_rule", S: int = 5, **options: Any) -> tuple[Any, Any, TaskBatch]:
    """A task, its published model in float64 with nothing drawn anew, and a batch."""
    torch.manual_seed(0)
    task = RetrievalConfig(setting=setting, symbols=S, **options).open(0)
    model = task.model(NO_CORE).double().eval()
    return task, model, task.batch(0, 3)


@every_model
def test_the_published_model_is_its_equations(options: dict[str, Any]) -> None:
    _, model, batch = opened(**options)
    y, state = model(batch.input, (), batch.reset)
    assert state == ()
    for column in range(3):
        *pairs, (query, _) = pairs_of(batch.input[:, column], 5)
        expected = answer(model, pairs, query, options["feature_map"])
        torch.testing.assert_close(y[column], expected, rtol=1e-9, atol=1e-9)


@every_model
def test_reading_back_is_writing_and_reading(options: dict[str, Any]) -> None:
    """An evaluation makes the fast weights and reads every key from them; training makes none."""
    _, model, batch = opened(**options)
    model.redraws = False  # the same projection for both
    y, _ = model(batch.input, (), batch.reset)
    every = model.answers(batch.input[:-1])
    assert every.shape == (3, 5, 5)
    torch.testing.assert_close(every[torch.arange(3), batch.input[-1]], y, rtol=1e-9, atol=1e-9)


@every_model
def test_gradients_are_those_of_the_loop(options: dict[str, Any]) -> None:
    task, model, batch = opened(**options)
    losses, _ = task.loss(model, batch, ())
    loss = losses.reduce(batch.mask.sum())
    expected = torch.zeros((), dtype=torch.float64)
    for column in range(3):
        *pairs, (query, _) = pairs_of(batch.input[:, column], 5)
        y = answer(model, pairs, query, options["feature_map"])
        target = torch.eye(5)[batch.target[-1, column]]
        expected = expected + (0.5 * (target - y) ** 2).sum() / 3
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    named = dict(model.named_parameters())
    ours = torch.autograd.grad(loss, list(named.values()))
    theirs = torch.autograd.grad(expected, list(named.values()))
    for name, a, b in zip(named, ours, theirs, strict=True):
        assert a.any(), name
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9, msg=name)


def test_the_network_begins_as_published() -> None:
    torch.manual_seed(0)
    S = 50
    delta = RetrievalConfig(setting="update_rule", symbols=S).open(0).model(NO_CORE)
    assert isinstance(delta, PublishedModel)
    assert delta.embedding.weight.shape == (S, 110)
    assert delta.embedding.weight.std().item() == pytest.approx(1, rel=0.05)
    for linear in (delta.key, delta.query):
        assert linear.out_features == 64
        assert 0.12 < linear.weight.abs().max() <= 1 / 8
    assert delta.beta is not None
    softmax = RetrievalConfig(feature_map="softmax", symbols=S).open(0).model(NO_CORE)
    assert isinstance(softmax, PublishedModel)
    assert softmax.beta is None
    assert 0.17 < softmax.query.weight.abs().max() <= math.sqrt(6 / (110 + 64))  # Glorot's


def test_favor_is_drawn_anew_in_each_forward_pass_of_training() -> None:
    _, model, batch = opened(feature_map="favor", favor_features=128)
    model.train()
    assert model.phi.output_size == 256

    def forward() -> Tensor:
        return model(batch.input, (), batch.reset)[0]

    assert not torch.equal(forward(), forward())
    with drawn_once(model):
        first = forward()
        assert torch.equal(first, forward())
    assert not torch.equal(first, forward())
    with torch.no_grad():
        assert torch.equal(forward(), forward())


def test_favor_has_finite_answers_and_gradients_for_long_keys() -> None:
    """Each of their features is below the least float: the authors' k / sum(k) is 0 / 0."""
    task, model, batch = opened(feature_map="favor")
    model.float()
    with torch.no_grad():
        model.key.weight.mul_(300)
        model.query.weight.mul_(300)
    losses, _ = task.loss(model, batch, ())
    assert losses.loss.isfinite().all()
    for gradient in torch.autograd.grad(losses.loss.sum(), list(model.parameters())):
        assert gradient.isfinite().all()


class Answering(nn.Module):
    """Answers each key with its last value, or as told, and remembers what it was shown."""

    def __init__(self, symbols: int, *, wrong_from: int | None = None) -> None:
        super().__init__()
        self.symbols, self.wrong_from = symbols, wrong_from
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[Tensor] = []

    def answers(self, pairs: Tensor) -> Tensor:
        self.seen.append(pairs)
        y = torch.zeros(pairs.shape[1], self.symbols, self.symbols)
        for column in range(pairs.shape[1]):
            for key, value in dict(pairs_of(pairs[:, column], self.symbols)).items():
                y[column, key, value] = 1
        if self.wrong_from is not None:
            y[:, self.wrong_from :] += 100
        return y


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_evaluation_asks_for_each_key_of_20_sequences(setting: Any) -> None:
    task = RetrievalConfig(setting=setting, symbols=30).open(0)
    model = Answering(30)
    assert task.evaluate(model, "validation") == {"loss": 0, "accuracy": 1}
    assert model.seen[0].shape == (30, 20)  # as long as there are keys, in both settings
    assert task.evaluate(Answering(30, wrong_from=29), "validation")["loss"] > 1


def test_an_evaluation_asks_for_200_keys_at_most() -> None:
    task = RetrievalConfig(symbols=205).open(0)
    assert task.evaluate(Answering(205, wrong_from=200), "test")["loss"] == 0
    assert task.evaluate(Answering(205, wrong_from=199), "test")["loss"] > 0


def test_an_evaluation_draws_by_the_weights_and_leaves_no_trace() -> None:
    task, model, _ = opened(feature_map="favor")
    projection, before = model.phi.projection.clone(), torch.random.get_rng_state()
    with torch.no_grad():
        first = task.evaluate(model, "validation")
        assert task.evaluate(model, "validation") == first
        assert task.evaluate(model, "test") != first
        assert torch.equal(before, torch.random.get_rng_state())
        assert torch.equal(projection, model.phi.projection)
        fake = Answering(5)
        task.evaluate(fake, "validation")
        fake.weight += 1e-3
        task.evaluate(fake, "validation")
        task.evaluate(fake, "validation")
    one, other, again = fake.seen
    assert not torch.equal(one, other)
    assert torch.equal(other, again)


@pytest.mark.parametrize("core", ["lstm", "delta_net", "gtrxl", "feedforward"])
def test_any_core_can_be_examined(core: str) -> None:
    torch.manual_seed(0)
    memory: Any = "core" if core == "feedforward" else None
    task = RetrievalConfig(setting="update_rule", symbols=4, memory=memory).open(0)
    model = task.model(CORES[core]()).eval()
    assert not isinstance(model, PublishedModel)
    batch = task.batch(0, 3)
    y, _ = model(batch.input, model.initial_state(3), batch.reset)
    # every key after the same pairs, with the state that they left
    every = model.answers(batch.input[:-1])  # type: ignore[operator]
    torch.testing.assert_close(every[torch.arange(3), batch.input[-1]], y, rtol=1e-4, atol=1e-5)
    losses, _ = task.loss(model, batch, model.initial_state(3))
    expected = 0.5 * (y - torch.eye(4)[batch.target[-1]]).square().sum(-1)
    torch.testing.assert_close(losses.loss, expected.unsqueeze(0))
    losses.loss.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        assert set(task.evaluate(model, "validation")) == {"loss", "accuracy"}


def test_the_published_model_and_a_core_are_not_mixed_up() -> None:
    published = RetrievalConfig(memory="published")
    assert isinstance(published.open(0).model(NO_CORE), PublishedModel)
    with pytest.raises(ConfigError, match=r"core: got lstm with memory published.*expected feedf"):
        published.open(0).model(LSTMConfig())
    with pytest.raises(ConfigError, match=r"rule: got delta with core delta_net, expected none"):
        RetrievalConfig(rule="delta").open(0).model(DeltaNetConfig())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"setting": "capacty"}, "setting: got 'capacty', expected one of capacity, update_rule"),
        ({"symbols": 1}, "symbols: got 1, expected 2 to 2000"),
        ({"rule": "sum", "feature_map": "softmax"}, "rule: got sum with feature_map softmax"),
        ({"favor_features": 64}, "favor_features: got 64 with feature_map dpfp1"),
        ({"memory": "core", "feature_map": "elu1"}, "feature_map: got elu1 with memory core"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RetrievalConfig(**options)


def test_a_title_names_the_task_and_not_the_model() -> None:
    assert RetrievalConfig(symbols=40, feature_map="elu1").title() == "retrieval-capacity-40"


def result_of(folder: Path, rule: Any, **changes: Any) -> Any:
    config = load_preset("tasks/retrieval")
    assert isinstance(config, SupervisedConfig)
    assert isinstance(config.task, RetrievalConfig)
    task = replace(config.task, rule=rule)
    changes |= {"run_dir": str(folder), "plain": True, "device": "cpu"}
    run = train(replace(config, task=task, **changes))
    return task_result(RunDirectory.open(run))


@pytest.mark.slow
def test_the_delta_rule_solves_what_the_sum_rule_does_not(tmp_path: Path) -> None:
    """The authors' logs at S = 20: 0.0008 after 700 steps, and 0.0973 until patience ends it, of
    which the sum rule has half as much here."""
    delta = result_of(tmp_path / "delta", "delta")
    assert delta.stopped == "solved"
    assert delta.validation["loss"] <= 0.001
    assert delta.test["loss"] <= 0.003
    sum_rule = result_of(tmp_path / "sum", "sum", patience=6)
    assert sum_rule.stopped == "patience"
    assert 0.08 <= sum_rule.validation["loss"] <= 0.12
