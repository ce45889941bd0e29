"""What TensorBoard reads back, and what a view that fails costs. test_wandb.py has the real W&B."""

import io
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context

from fwp_rl import agents
from fwp_rl.config import ConfigError
from fwp_rl.cores import CORES
from fwp_rl.runs.metrics import MetricsLogger
from fwp_rl.runs.presets import experiment
from fwp_rl.runs.views import check_logger, open_view


def events(directory: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(directory))
    accumulator.Reload()
    return accumulator


def test_tensorboards_own_reader_takes_every_event(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path, config={"seed": 1}) as logger:
        logger.log(10, {"policy/entropy": 1.5, "time/acting": 0.5})
    read: dict[str, tuple[str, str]] = {}
    for file in tmp_path.glob("events.*"):
        for event in EventFileLoader(str(file)).Load():  # as the server reads, old to new format
            for value in event.summary.value:
                about = value.metadata
                read[value.tag] = about.plugin_data.plugin_name, about.summary_description
                if value.tag == "policy/entropy":
                    assert value.tensor.float_val[0] == 1.5
    assert {tag: plugin for tag, (plugin, _) in read.items()} == {
        "config/text_summary": "text",
        "policy/entropy": "scalars",
        "time/acting": "scalars",
    }
    assert "nats" in read["policy/entropy"][1]


def test_tensorboard_has_the_config_the_clip_and_what_curves_mean(
    tmp_path: Path, clip: Path
) -> None:
    config = {"agent": "ppo", "core": {"name": "delta_net"}}
    with MetricsLogger(tmp_path, config=config) as logger:
        logger.log(10, {"policy/entropy": 1.0, "time/acting": 0.5})
    view = open_view("tensorboard", tmp_path, start_step=10)
    view.scalars(10, {"evaluation/mean_return": 3.0})
    view.clip(10, "evaluation/clip", clip)
    view.close()
    read = events(tmp_path)
    assert [(e.step, e.value) for e in read.Scalars("policy/entropy")] == [(10, 1.0)]
    assert [(e.step, e.value) for e in read.Scalars("evaluation/mean_return")] == [(10, 3.0)]
    assert "nats" in read.SummaryMetadata("policy/entropy").summary_description
    (text,) = read.Tensors("config/text_summary")
    assert b"core:\n  name: delta_net" in text.tensor_proto.string_val[0]
    assert read.SummaryMetadata("config/text_summary").plugin_data.plugin_name == "text"
    (image,) = read.Images("evaluation/clip")
    assert (image.step, image.width, image.height) == (10, 20, 12)
    with Image.open(io.BytesIO(image.encoded_image_string)) as gif:
        assert (gif.format, gif.n_frames) == ("GIF", 4)


def test_event_files_go_on_after_the_highest_number(tmp_path: Path) -> None:
    for step in (10, 20):
        with MetricsLogger(tmp_path, start_step=step) as logger:
            logger.log(step + 1, {"x": step})
    min(tmp_path.glob("events.*")).unlink()
    said: list[str] = []
    with MetricsLogger(tmp_path, start_step=30, warn=said.append) as logger:
        logger.log(31, {"x": 30})
    assert said == []
    assert [event.step for event in events(tmp_path).Scalars("x")] == [21, 31]


def test_a_foreign_event_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1700000000.host.1.0").write_bytes(b"")
    with MetricsLogger(tmp_path) as logger:
        logger.log(1, {"x": 1.0})
    assert (tmp_path / "events.out.tfevents.1700000001.fwp_rl").is_file()


def test_an_event_file_that_vanished_has_a_successor(tmp_path: Path) -> None:
    said: list[str] = []
    with MetricsLogger(tmp_path, warn=said.append) as logger:
        logger.log(1, {"policy/entropy": 1.0})
        (first,) = tmp_path.glob("events.*")
        first.unlink()
        for step in (2, 3):
            logger.log(step, {"policy/entropy": 1.0})
    read = events(tmp_path)
    assert [event.step for event in read.Scalars("policy/entropy")] == [2, 3]
    assert "nats" in read.SummaryMetadata("policy/entropy").summary_description
    assert said == []


class CommError(Exception):
    """A package's errors are its own."""


@pytest.mark.parametrize("error", [CommError("no route"), OSError(28, "no route"), SystemExit(1)])
@pytest.mark.parametrize("what", ["init", "define_metric", "log", "finish"])
def test_a_view_that_fails_is_given_up_and_the_run_goes_on(
    what: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    def fine(*_: object, **__: object) -> None: ...

    calls = dict.fromkeys(("define_metric", "log", "finish"), fine)
    run = SimpleNamespace(id="x", **{**calls, **{what: fail}})
    package = SimpleNamespace(init=fail if what == "init" else lambda **_: run)
    monkeypatch.setitem(sys.modules, "wandb", package)
    said: list[str] = []
    with MetricsLogger(tmp_path, logger="wandb", warn=said.append) as logger:
        for step in (1, 2):
            logger.log(step, {"loss/value": 1.0})
    (warning,) = said
    reason = str(error) if isinstance(error, SystemExit) else "no route"
    assert f"Weights & Biases can no longer be written ({reason})" in warning
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2


def test_ctrl_c_in_a_view_is_no_failure_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=interrupted))
    with pytest.raises(KeyboardInterrupt):
        MetricsLogger(tmp_path, logger="wandb")


def test_a_missing_wandb_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    check_logger("tensorboard")
    with pytest.raises(ConfigError, match=r"pip install 'fwp-rl\[wandb\]'"):
        check_logger("wandb")


def test_a_run_goes_on_without_a_wandb_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    said: list[str] = []
    with MetricsLogger(tmp_path, logger="wandb", start_step=5, warn=said.append) as logger:
        logger.log(6, {"loss/value": 1.0})
    (warning,) = said
    assert "pip install 'fwp-rl[wandb]'" in warning


def test_a_folder_called_wandb_is_not_taken_for_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()  # as the package itself leaves it where it has been used
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'fwp-rl\[wandb\]'"):
        check_logger("wandb")


def table(logdir: Path) -> dict[str, tuple[dict[str, object], dict[str, float], int]]:
    """What TensorBoard's tab HPARAMS shows: run → hyper-parameters, last values, how it ended."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(logdir))
    context = Context(TBContext(data_provider=provider))
    every = [api_pb2.Status.Value(f"STATUS_{name}") for name in ("UNKNOWN", "SUCCESS", "RUNNING")]
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=every, start_index=0, slice_size=100, include_metrics=True
    )
    handler = list_session_groups.Handler(RequestContext(), context, "", request)
    return {
        group.sessions[0].name: (
            {
                name: getattr(value, value.WhichOneof("kind"))
                for name, value in group.hparams.items()
            },
            {each.name.tag: each.value for each in group.metric_values},
            group.sessions[0].status,
        )
        for group in handler.run().session_groups
    }


def test_tensorboards_table_has_the_experiment_and_the_score(tmp_path: Path) -> None:
    scores = {"delta_net": 3.0, "lstm": 2.0}
    for core, score in scores.items():
        config = replace(agents.load_preset("recall"), core=CORES[core](), learning_rate=0.25)
        directory = tmp_path / core
        directory.mkdir()
        with MetricsLogger(directory, experiment=experiment(config)) as logger:
            logger.log(10, {"policy/entropy": 1.0})
        view = open_view("tensorboard", directory, start_step=10)
        view.scalars(10, {"evaluation/mean_return": score})
        if core == "lstm":
            view.ended()
        view.close()
    shown = table(tmp_path)
    assert set(shown) == set(scores)
    for core, (fields, values, status) in shown.items():
        assert values["evaluation/mean_return"] == scores[core]
        assert (fields["core.name"], fields["learning_rate"], fields["seed"]) == (core, 0.25, 1)
        assert fields["anneal_learning_rate"] is True
        assert fields["core.gradient_horizon"] == "none"
        assert fields["encoder.hidden_sizes"] == "[64, 64]"
        assert ("core.heads" in fields) == (core == "delta_net")
        assert "device" not in fields, "it is no part of the experiment"
        ended = api_pb2.Status.Value("STATUS_SUCCESS")
        assert (status == ended) == (core == "lstm")
