"""The translation task: its data, what it keeps, its measures, and that cores learn it."""

import json
import sys
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fwp_rl.agents.supervised import SupervisedConfig, train
from fwp_rl.config import ConfigError
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.runs.presets import load_preset
from fwp_rl.runs.yaml_files import task_path
from fwp_rl.tasks import TASKS
from fwp_rl.tasks.decoding import Translation
from fwp_rl.tasks.number_words import IN_WORDS
from fwp_rl.tasks.symbols import SymbolTask
from fwp_rl.tasks.translation import TranslationConfig
from fwp_rl.tasks.translation_task import FACTS, TOKENIZER, TranslationTask

pytest.importorskip("sacrebleu", reason="needs the extra `tasks`")
pytest.importorskip("sentencepiece", reason="needs the extra `tasks`")

SMALL = DeltaNetConfig(layers=1, hidden_size=16, heads=2, feedforward_size=16)

LINES = {
    "train": [(f"the {n} cats", f"{n} gatos, los") for n in ("one", "two", "ten", "six", "four")],
    "validation": [("the two cats", "two gatos, los"), ("the cats", "los gatos")],
    "test": [("the ten cats", "ten gatos, los"), ("six", "six"), ("cats the", "los gatos")],
}


def files(folder: Path, **changes: Any) -> TranslationConfig:
    """The task on files of these lines; ``train=[...]`` puts others in their place."""
    options: dict[str, Any] = {"vocabulary_size": 40}
    for part, pairs in LINES.items():
        pairs = changes.pop(part, pairs)
        for side, texts in zip(("source", "target"), zip(*pairs, strict=True), strict=True):
            path = folder / f"{part}.{side}"
            path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
            options[f"{part}_{side}"] = str(path)
    return TranslationConfig(**options | changes)


def numbers(**changes: Any) -> TranslationConfig:
    options: dict[str, Any] = {
        "data": "synthetic",
        "tokens": "bytes",
        "train_size": 200,
        "validation_size": 20,
        "test_size": 30,
        "largest_number": 999,
    }
    return TranslationConfig(**options | changes)


def perfect(task: TranslationTask, monkeypatch: pytest.MonkeyPatch, *, shift: int = 0) -> None:
    """Have the task translate as the references do, or as those of other sentences."""

    def translations(model: object, split: Any, chosen: Any) -> list[Translation]:
        texts = task.texts[split]
        wanted = [texts[(number + shift) % len(texts)][1] for number in chosen]
        return [Translation(symbols, True) for symbols in task.tokens.encode(wanted)]

    monkeypatch.setattr(task, "translations", translations)


@pytest.mark.parametrize("tokens", ["bytes", "sentencepiece"])
def test_files_become_batches(tmp_path: Path, tokens: str) -> None:
    task = files(tmp_path, tokens=tokens).open(1)
    seen: Counter[tuple[str, str]] = Counter()
    for step in range(5):  # five batches of 4 from 5 pairs: four epochs
        batch = task.batch(step, 4)
        for column in range(4):
            inside = batch.mask[:, column].nonzero().flatten()
            source = batch.input[: inside[0], column].tolist()
            target = batch.target[inside[:-1], column].tolist()
            assert batch.input[inside[0], column] == task.boundary
            assert batch.target[inside[-1], column] == task.boundary
            seen[task.tokens.decode(source), task.tokens.decode(target)] += 1
    assert set(seen) <= set(LINES["train"])
    evaluated = [batch.mask.shape[1] for batch in task.batches("test")]
    assert sum(evaluated) == len(LINES["test"])


def test_each_pair_is_read_once_before_any_is_read_again() -> None:
    task = numbers(train_size=192).open(1)
    pairs = task.pairs["train"]
    # 16 batches of 12 are one epoch, and what is in them is what was read
    columns: Counter[bytes] = Counter()
    steps = inside = 0
    for step in range(16):
        batch = task.batch(step, 12)
        lengths = batch.mask.int().argmax(0) + batch.mask.sum(0)
        assert batch.input.shape[0] == lengths.max()
        steps += batch.input.numel()
        inside += int(lengths.sum())
        for column, length in enumerate(lengths.tolist()):
            columns[batch.input[:length, column].numpy().tobytes()] += 1
    wanted = Counter(
        pairs.batch(np.array([i])).input[:, 0].numpy().tobytes() for i in range(len(pairs))
    )
    assert columns == wanted
    assert inside > 0.9 * steps, "little is padding"


def test_a_batch_is_a_function_of_seed_step_and_size() -> None:
    one, same, other = numbers().open(1), numbers().open(1), numbers().open(2)
    for step in (40, 3, 0, 17):
        assert torch.equal(one.batch(step, 8).input, same.batch(step, 8).input)
    assert torch.equal(one.batch(3, 8).input, same.batch(3, 8).input)
    assert not any(
        a.shape == b.shape and torch.equal(a, b)
        for a, b in ((one.batch(s, 8).input, other.batch(s, 8).input) for s in range(3))
    )


def test_numbers_are_in_one_split_and_the_same_for_all_seeds() -> None:
    config = numbers(source_language="spanish")
    task = config.open(1)
    assert config.open(2).texts == task.texts
    assert (
        numbers(source_language="spanish", train_size=50).open(1).texts["test"]
        == (task.texts["test"])
    )
    spanish, english = (
        {IN_WORDS[language](n): n for n in range(1000)} for language in ("spanish", "english")
    )
    pairs = [pair for texts in task.texts.values() for pair in texts]
    assert all(spanish[source] == english[target] for source, target in pairs)
    assert len(set(pairs)) == len(pairs) == 250


def test_the_loss_is_that_of_all_symbol_tasks(tmp_path: Path) -> None:
    """It leaves out the logits of steps at which nothing is asked, and nothing else."""
    task = files(tmp_path).open(1)
    torch.manual_seed(0)
    model, batch = task.model(SMALL), task.batch(0, 5)
    gradients = []
    for loss in (task.loss, lambda *x: SymbolTask.loss(task, *x)):
        model.zero_grad()
        losses, _ = loss(model, batch, model.initial_state(5))  # type: ignore[operator]
        losses.reduce(batch.mask.sum()).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    mine, plain = task.loss(model, batch, model.initial_state(5))[0], losses  # type: ignore[operator]
    torch.testing.assert_close(mine.loss, plain.loss * batch.mask)
    torch.testing.assert_close(*gradients)
    shares = [float(x.metrics(batch.mask.sum())["task/accuracy"]) for x in (mine, plain)]
    assert shares[0] == pytest.approx(shares[1])


@torch.no_grad()
@pytest.mark.parametrize("tokens", ["bytes", "sentencepiece"])
def test_measures(tmp_path: Path, tokens: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = [(f"{n} a b c d", f"the {n} small  cats sleep here") for n in ("one", "two", "six")]
    config = files(tmp_path, tokens=tokens, train=sentences, test=sentences)
    task = config.open(1)
    model = task.model(SMALL)
    perfect(task, monkeypatch)
    found = task.evaluate(model, "test")
    assert (found["bleu"], found["chrf"]) == (pytest.approx(100), pytest.approx(100))
    assert (found["exact_match"], found["unfinished"]) == (1, 0)
    assert found["loss"] == pytest.approx(np.log(task.outputs), rel=0.5)
    assert 0 <= found["accuracy"] < 0.5
    perfect(task, monkeypatch, shift=1)
    found = task.evaluate(model, "test")
    # each has four of six words right, of which no four stand in a row but the last
    assert found["exact_match"] == 0
    assert 20 < found["bleu"] < 80
    assert 0 < found["chrf"] < 100
    assert config.score_bounds() == (0, 100)


@torch.no_grad()
def test_what_no_one_ends_is_unfinished_and_validation_translates_a_part() -> None:
    task = numbers(validation_sentences=7, longest=40).open(1)
    model = task.model(SMALL).eval()
    asked: list[tuple[str, int]] = []
    whole = task.translations
    task.translations = lambda m, s, c: (asked.append((s, len(c))), whole(m, s, c))[1]  # type: ignore[method-assign]
    model.head.bias[task.boundary] = -1e4  # type: ignore[operator, union-attr, index]
    for split in ("validation", "test"):
        assert task.evaluate(model, split)["unfinished"] == 1  # type: ignore[arg-type]
    assert asked == [("validation", 7), ("test", 30)]
    model.head.bias[task.boundary] = 1e4  # type: ignore[operator, union-attr, index]
    found = task.evaluate(model, "test")
    assert (found["unfinished"], found["bleu"], found["exact_match"]) == (0, 0, 0)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:longest")
def test_translations_come_in_the_order_asked_for_and_the_test_may_have_beams() -> None:
    task = numbers(beams=2, longest=12).open(1)
    model = task.model(SMALL).eval()
    chosen = np.array([5, 0, 11, 3])
    together = task.translations(model, "test", chosen)
    assert together == [task.translations(model, "test", chosen[i : i + 1])[0] for i in range(4)]
    one_beam = replace(task.config, beams=1).open(1)
    assert one_beam.translations(model, "validation", chosen) == task.translations(
        model, "validation", chosen
    )


def test_long_pairs_are_left_out_of_training_and_counted(tmp_path: Path) -> None:
    long = ("x " * 30, "y")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task = files(
            tmp_path,
            tokens="bytes",
            longest=20,
            train=[*LINES["train"], long, long[::-1]],
            test=[*LINES["test"], long],
        ).open(1)
    (warning,) = caught
    assert str(warning.message) == (
        "longest: 2 of 7 training pairs are left out, which have a side of more than 20 tokens"
    )
    assert json.loads(task.artifacts()[FACTS])["left_out"] == 2
    assert len(task.pairs["train"]) == 5
    assert len(task.pairs["test"]) == 4
    with pytest.raises(ConfigError, match="longest: got 2, expected more"):
        files(tmp_path, tokens="bytes", longest=2).open(1)


def test_the_run_keeps_tokenizer_and_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = files(tmp_path)
    task = config.open(1)
    kept = task.artifacts()
    facts = json.loads(kept[FACTS])
    assert facts["train"]["pairs"] == 5
    assert facts["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert facts["chrf"].startswith("nrefs:1|")

    monkeypatch.setattr("fwp_rl.tasks.translation.train_pieces", None)  # nobody learns pieces anew
    again = config.open(1, kept)
    assert again.artifacts() == kept
    assert torch.equal(again.batch(2, 4).input, task.batch(2, 4).input)
    with pytest.raises(ConfigError, match=r"tokenizer\.model: is missing from the run"):
        config.open(1, {FACTS: kept[FACTS]})
    with pytest.raises(ConfigError, match=r"pairs\.json: is missing from the run"):
        config.open(1, {TOKENIZER: kept[TOKENIZER]})
    with pytest.raises(ConfigError, match=r"pairs\.json: does not describe"):
        config.open(1, kept | {FACTS: b"[]"})
    with pytest.raises(ConfigError, match=r"tokenizer\.model: is no model of SentencePiece"):
        config.open(1, kept | {TOKENIZER: b"[]"})
    changed = files(tmp_path, test=LINES["test"][1:])
    with pytest.raises(ConfigError, match="test_source, test_target: are not the texts"):
        changed.open(1, kept)


def test_options_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train_source: got 'a' with data synthetic"):
        numbers(train_source="a")
    with pytest.raises(ConfigError, match="target_language: got english, expected another"):
        numbers(source_language="english")
    with pytest.raises(ConfigError, match=r"target_language: got 'german', expected one of"):
        numbers(target_language="german", source_language="english")
    with pytest.raises(ConfigError, match=r"train_size: got 960, with .* 1,010 pairs; .* 1,000"):
        numbers(train_size=960)
    with pytest.raises(ConfigError, match=r"test_target: no file is given.*--task\.test-target"):
        replace(files(tmp_path), test_target=None).open(1)
    with pytest.raises(ConfigError, match="vocabulary_size: got 900, expected at most"):
        files(tmp_path, vocabulary_size=900).open(1)


@pytest.mark.parametrize("package", ["sacrebleu", "sentencepiece"])
def test_a_missing_package_is_named(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    config = files(tmp_path)
    with pytest.raises(ConfigError, match=rf"needs {package}, .* pip install 'fwp-rl\[tasks\]'$"):
        config.open(1)
    if package == "sentencepiece":
        replace(config, tokens="bytes").open(1)


def test_titles(tmp_path: Path) -> None:
    assert numbers().title() == "translation german-english numbers, bytes"
    assert files(tmp_path).title() == "translation train.source train.target"
    assert isinstance(TASKS["translation"](), TranslationConfig)


@pytest.mark.slow
def test_a_run_uses_what_it_has_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SupervisedConfig(
        task=files(tmp_path),
        core=SMALL,
        total_steps=2,
        batch_size=4,
        run_dir=str(tmp_path / "run"),
        plain=True,
        device="cpu",
    )
    run = train(config)
    result = json.loads((run / "result.json").read_text())
    assert result["measure"] == "bleu"
    assert result["score"] == result["test"]["bleu"]
    assert set(result["test"]) >= {"bleu", "chrf", "exact_match", "loss", "accuracy", "unfinished"}
    assert (run / "task" / TOKENIZER).read_bytes() == config.task.open(7).artifacts()[TOKENIZER]
    monkeypatch.setattr("fwp_rl.tasks.translation.train_pieces", None)
    train(replace(config, total_steps=4), resume=run)
    assert json.loads((run / "result.json").read_text())["steps"] == 4


@pytest.mark.slow
def test_numbers_are_learned(tmp_path: Path) -> None:
    """The preset with smaller numbers, for some seconds."""
    preset = load_preset(task_path("translation_numbers"))
    assert isinstance(preset, SupervisedConfig)
    assert isinstance(preset.task, TranslationConfig)
    config = replace(
        preset,
        task=replace(
            preset.task, largest_number=999, train_size=800, validation_size=100, test_size=100
        ),
        total_steps=300,
        evaluate_every=100,
        run_dir=str(tmp_path / "run"),
        plain=True,
        device="cpu",
    )
    result = json.loads((train(config) / "result.json").read_text())
    assert result["score"] > 70


@pytest.mark.long
def test_the_preset_reaches_90(tmp_path: Path) -> None:
    preset = load_preset(task_path("translation_numbers"))
    config = replace(preset, run_dir=str(tmp_path / "run"), plain=True, device="cpu")
    assert isinstance(config, SupervisedConfig)
    result = json.loads((train(config) / "result.json").read_text())
    assert result["score"] >= 90
    assert result["stopped"] != "time"
