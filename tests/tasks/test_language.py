"""Language modelling: contexts, evaluations against slow ones, errors, and learning a grammar as
well as it can be predicted."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fwp_rl.agents.supervised import SupervisedConfig
from fwp_rl.config import ConfigError
from fwp_rl.cores import CoreConfig
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.losses import StepLosses
from fwp_rl.runs.presets import load_preset
from fwp_rl.tasks.corpora.grammar import nats, sentences
from fwp_rl.tasks.language import LanguageConfig, LanguageTask
from fwp_rl.tasks.language_model import LanguageModel

CORE = DeltaNetConfig(layers=1, hidden_size=16, heads=2, feedforward_size=16)
PRESETS = ["language_small", "language_medium", "language_cpu", "language_bytes_cpu"]


def files(folder: Path, lines: int = 20) -> dict[str, Any]:
    """A grammar's sentences in documents of five, for each split."""
    paths = {}
    for seed, name in enumerate(("train", "validation", "test")):
        parts = [
            f" = Title {n} = \n" * (n % 5 == 0) + f"{line}\n"
            for n, line in enumerate(sentences(lines, seed))
        ]
        paths[name] = folder / f"{name}.tokens"
        paths[name].write_text("".join(parts))
    return {name: str(path) for name, path in paths.items()}


def opened(folder: Path, **options: Any) -> LanguageTask:
    defaults: dict[str, Any] = {"segment_length": 8, "cutoffs": (10,), "min_count": 2}
    return LanguageConfig(**files(folder), **(defaults | options)).open(0)


def model_of(task: LanguageTask, core: CoreConfig = CORE) -> LanguageModel:
    torch.manual_seed(0)
    return task.model(core).eval()


def losses_after(task: LanguageTask, model: LanguageModel, start: int, stop: int) -> Tensor:
    """The slow way: the text from ``start`` on, read alone; the loss of each token to ``stop``."""
    text = task.texts["test"]
    tokens = torch.from_numpy(np.array([text.first, *text.tokens.tolist()]))
    reset = torch.zeros(stop - start, 1, dtype=torch.bool)
    y, _ = model(tokens[start:stop, None], model.initial_state(1), reset)
    return model.softmax.losses(y[:, 0], tokens[start + 1 : stop + 1])


@pytest.mark.parametrize("level", ["word", "byte"])
@pytest.mark.parametrize("streams", [1, 3])
@torch.no_grad()
def test_a_carried_evaluation_is_one_long_pass(tmp_path: Path, level: Any, streams: int) -> None:
    task = opened(tmp_path, level=level, evaluation_streams=streams)
    model, count = model_of(task), len(task.texts["test"])
    edges = [*range(0, count, -(-count // streams)), count]
    parts = [losses_after(task, model, a, b) for a, b in pairwise(edges)]
    metrics = task.evaluate(model, "test")
    assert metrics["loss"] == pytest.approx(float(torch.cat(parts).mean()), rel=1e-5)
    text = task.texts["test"]
    if level == "word":
        assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    else:
        assert metrics["bits_per_byte"] == pytest.approx(metrics["loss"] / math.log(2))
        assert text.characters == text.size, "ASCII"
        assert metrics["bits_per_character"] == metrics["bits_per_byte"]


@pytest.mark.parametrize(("length", "stride"), [(8, 1), (8, 3), (8, None), (5, 5)])
@torch.no_grad()
def test_windows_are_evaluated_as_each_token_alone(
    tmp_path: Path, length: int, stride: int | None
) -> None:
    task = opened(tmp_path, context="segment", segment_length=length, test_stride=stride)
    model, count = model_of(task), len(task.texts["test"])
    step = stride or length
    total = float(losses_after(task, model, 0, length).sum())
    for position in range(length, count):
        start = ((position - length) // step + 1) * step
        total += float(losses_after(task, model, start, position + 1)[-1])
    assert task.evaluate(model, "test")["loss"] == pytest.approx(total / count, rel=1e-5)


@torch.no_grad()
def test_a_document_is_evaluated_as_if_it_stood_alone(tmp_path: Path) -> None:
    task = opened(tmp_path, context="document")
    model, text = model_of(task), task.texts["test"]
    edges = [*text.documents.tolist(), len(text)]
    assert edges[0] == 0
    assert len(edges) == 5
    parts = [losses_after(task, model, a, b) for a, b in pairwise(edges)]
    loss = float(torch.cat(parts).mean())
    assert task.evaluate(model, "test")["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("context", ["carried", "document", "segment"])
@torch.no_grad()
def test_an_epoch_of_batches_reads_each_stream_as_its_context_says(
    tmp_path: Path, context: Any
) -> None:
    task = opened(tmp_path, context=context)
    task.texts = dict.fromkeys(task.texts, task.texts["test"])
    model, count, size = model_of(task), len(task.texts["test"]), 3
    length = -(-count // size)
    state = model.initial_state(size)
    found: list[tuple[int, float]] = []
    segments = -(-length // 8)
    for step in range(segments):
        if not task.carries_state:
            state = model.initial_state(size)
        batch = task.batch(segments + step, size)  # the second epoch is as the first
        losses, state = task.loss(model, batch, state)
        assert isinstance(losses, StepLosses)
        assert losses.loss.shape == batch.mask.shape
        for row, column in batch.mask.nonzero().tolist():
            found.append((column * length + step * 8 + row, float(losses.loss[row, column])))
    assert sorted(position for position, _ in found) == list(range(count))
    begins = {
        "carried": lambda n: n // length * length,
        "segment": lambda n: n // length * length + n % length // 8 * 8,
        "document": lambda n: max(
            n // length * length,
            *(d for d in task.texts["test"].documents.tolist() if d <= n),
        ),
    }[context]
    for position, loss in found[::7]:
        alone = losses_after(task, model, begins(position), position + 1)[-1]
        assert loss == pytest.approx(float(alone), rel=1e-4, abs=1e-5)


def test_a_run_keeps_its_vocabulary_and_knows_its_texts(tmp_path: Path) -> None:
    task = opened(tmp_path)
    kept = task.artifacts()
    assert sorted(kept) == ["texts.json", "vocabulary.txt"]
    assert json.loads(kept["texts.json"])["train"]["tokens"] == len(task.texts["train"])
    words = kept["vocabulary.txt"].decode().splitlines()
    again = task.config.open(1, {**kept, "vocabulary.txt": "\n".join([*words[:5], ""]).encode()})
    assert again.tokens == 5, "the vocabulary that was kept"
    Path(str(task.config.validation)).write_text("another text " * 9)
    with pytest.raises(ConfigError, match=r"^validation: .* is not the file that the run began"):
        task.config.open(0, kept)
    with pytest.raises(ConfigError, match=r"^texts.json: does not describe"):
        task.config.open(0, {**kept, "texts.json": b"[]"})


def test_a_text_of_bytes_has_no_vocabulary(tmp_path: Path) -> None:
    task = opened(tmp_path, level="byte")
    assert task.tokens == 256
    assert list(task.artifacts()) == ["texts.json"]
    assert (task.measure, task.higher_is_better) == ("bits_per_byte", False)


@torch.no_grad()
def test_the_share_of_unknown_words_is_told(tmp_path: Path) -> None:
    task = opened(tmp_path, vocabulary_size=8)
    words = Path(task.texts["test"].path).read_text().replace("\n", " <eos> ").split()
    assert task.vocabulary is not None
    unknown = sum(word not in task.vocabulary.words for word in words)
    assert unknown > 0
    metrics = task.evaluate(model_of(task), "test")
    assert metrics["unknown_share"] == pytest.approx(unknown / len(words))


WRONG: list[tuple[Mapping[str, Any], str]] = [
    ({"train": None}, r"train: no text is given, expected the path of a file: --task.train PATH"),
    ({"test": "no/file"}, r"test: no/file: there is no such file, expected a text file"),
    ({"test": "/"}, r"test: /: is no file, expected a text file"),
    ({"validation": b""}, r"validation: \S+: is empty, expected a text file"),
    ({"train": b"a\xff\n"}, r"train: \S+: byte 1: got 0xff, which is not UTF-8"),
    ({"test": b"a b\n"}, r"test: \S+: has 3 tokens, expected at least one segment, 8"),
    ({"level": "byte", "test": b"a b\n"}, r"test: \S+: has 4 tokens, expected at least one"),
    (
        {"min_count": 1, "validation": b"never seen before\n" * 9},
        r"min_count: got 1, .* has no <unk>, but \S+ has 27 words",
    ),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_what_cannot_be_read_is_told_before_training(
    tmp_path: Path, change: Mapping[str, Any], message: str
) -> None:
    options = {**files(tmp_path), "segment_length": 8}
    for name, value in change.items():
        if isinstance(value, bytes):
            Path(options[name]).write_bytes(value)
        else:
            options[name] = value
    with pytest.raises(ConfigError, match=f"^{message}") as error:
        LanguageConfig(**options).open(0)
    assert "\n" not in str(error.value)


def test_a_batch_of_too_many_streams_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^batch_size: got 30, .* streams of \d, expected at"):
        opened(tmp_path).batch(0, 30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoffs": (3, 3)}, r"cutoffs: got \[3, 3\], expected whole numbers that rise"),
        ({"test_stride": 257}, r"test_stride: got 257, which leaves out tokens"),
    ],
)
def test_options_that_cannot_be_are_refused(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        LanguageConfig(**options)


def test_titles_tell_texts_and_contexts_apart() -> None:
    assert LanguageConfig().title() == "language"
    config = LanguageConfig(train="a/wiki.train.tokens", level="byte", context="segment")
    assert config.title() == "language wiki.train.tokens, bytes, segment"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_loads_without_paths_and_says_which_it_needs(preset: str) -> None:
    config = load_preset(f"tasks/{preset}")
    assert isinstance(config, SupervisedConfig)
    with pytest.raises(ConfigError, match=r"^train: no text is given.*--task\.train PATH"):
        config.task.open(0)


@pytest.mark.slow
def test_a_grammar_is_learned_as_well_as_it_can_be(tmp_path: Path) -> None:
    lines = {"train": 6_000, "validation": 300, "test": 1_000}
    texts = {name: sentences(count, seed) for seed, (name, count) in enumerate(lines.items())}
    paths = {name: tmp_path / name for name in texts}
    for name, path in paths.items():
        path.write_text("".join(f"{line}\n" for line in texts[name]))
    task = LanguageConfig(
        **{name: str(path) for name, path in paths.items()},  # type: ignore[arg-type]
        segment_length=16,
        cutoffs=(12,),
        evaluation_streams=4,
    )
    sizes = {"layers": 1, "hidden_size": 32, "heads": 4, "feedforward_size": 64}
    config = SupervisedConfig(
        task=task,
        core=DeltaNetConfig(feature_map="softmax", **sizes),  # type: ignore[arg-type]
        batch_size=32,
        learning_rate=1e-2,
        schedule="linear",
        total_steps=400,
        evaluate_every=400,
        run_dir=str(tmp_path / "run"),
        device="cpu",
    )
    measured = _test_loss(config)
    least = nats(texts["test"])
    assert least - 0.01 < measured < least + 0.06
    forgetful = replace(
        config, core=FeedforwardConfig(), total_steps=200, run_dir=str(tmp_path / "forgetful")
    )
    assert _test_loss(forgetful) > least + 0.25, "who forgets pays ln 8 in a sentence"
    assert (tmp_path / "run" / "task" / "vocabulary.txt").is_file()


def _test_loss(config: SupervisedConfig) -> float:
    result = json.loads((config.train() / "result.json").read_text())
    loss: float = result["test"]["loss"]
    assert result["score"] == pytest.approx(math.exp(loss))
    return loss
