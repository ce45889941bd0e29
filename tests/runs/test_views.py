"""What TensorBoard reads back, and W&B, which a module of the test stands in for."""

import io
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from fwp_rl.config import ConfigError
from fwp_rl.reports.video import write_video
from fwp_rl.runs.metrics import MetricsLogger
from fwp_rl.runs.views import check_logger, open_view


def a_clip(folder: Path) -> Path:
    frames = [np.full((12, 20, 3), 40 * i, np.uint8) for i in range(4)]
    return write_video(frames, folder / "clip.gif", 10)


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


def test_tensorboard_has_the_config_the_clip_and_what_curves_mean(tmp_path: Path) -> None:
    config = {"agent": "ppo", "core": {"name": "delta_net"}}
    with MetricsLogger(tmp_path, config=config) as logger:
        logger.log(10, {"policy/entropy": 1.0, "time/acting": 0.5})
    view = open_view("tensorboard", tmp_path, start_step=10)
    view.scalars(10, {"evaluation/mean_return": 3.0})
    view.clip(10, "evaluation/clip", a_clip(tmp_path))
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


class FakeWandb(ModuleType):
    """Keeps what it is told, as runs by their id."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[SimpleNamespace] = []
        self.util = SimpleNamespace(generate_id=lambda: f"id{len(self.runs)}")

    def init(self, **arguments: Any) -> SimpleNamespace:
        run = SimpleNamespace(arguments=arguments, logged=[], metrics={}, summary={}, ended=0)
        run.log = run.logged.append
        run.define_metric = lambda name, step_metric=None: run.metrics.update({name: step_metric})
        run.finish = lambda: setattr(run, "ended", run.ended + 1)
        self.runs.append(run)
        return run

    def Video(self, path: str, *, format: str) -> tuple[str, str, bytes]:
        return "video", format, Path(path).read_bytes()[:3]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


def test_wandb_gets_metrics_config_and_clip(tmp_path: Path, wandb: FakeWandb) -> None:
    with MetricsLogger(tmp_path, logger="wandb", config={"seed": 3}) as logger:
        logger.log(10, {"policy/entropy": 1.0})
    view = open_view("wandb", tmp_path)
    view.clip(10, "evaluation/clip", a_clip(tmp_path))
    view.close()
    first, second = wandb.runs
    assert first.arguments["project"] == "fwp_rl"
    assert first.arguments["config"] == {"seed": 3}
    assert first.metrics["*"] == "step"
    assert first.logged == [{"step": 10, "policy/entropy": 1.0}]
    assert second.logged == [{"step": 10, "evaluation/clip": ("video", "gif", b"GIF")}]
    assert (first.ended, second.ended) == (1, 1)
    assert not list(tmp_path.glob("events.*"))
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1


def test_a_resumed_run_goes_on_under_its_id(
    tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret" * 7)
    for step in (10, 20):
        with MetricsLogger(tmp_path, logger="wandb", start_step=step) as logger:
            logger.log(step, {"loss/value": 1.0})
    ids = [run.arguments["id"] for run in wandb.runs]
    assert ids == ["id0", "id0"]
    assert [run.arguments["resume"] for run in wandb.runs] == ["allow", "allow"]
    assert json.loads((tmp_path / "wandb.json").read_text()) == {"id": "id0"}
    assert not any("secret" in file.read_text() for file in tmp_path.iterdir())
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    open_view("wandb", tmp_path).close()
    assert wandb.runs[-1].arguments["project"] == "mine"


@pytest.mark.parametrize("text", ["{", "[]", '{"id": 3}', '{"id": null}', '{"a":' * 50_000])
def test_a_damaged_id_is_made_anew(text: str, tmp_path: Path, wandb: FakeWandb) -> None:
    (tmp_path / "wandb.json").write_text(text)
    open_view("wandb", tmp_path).close()
    stored = json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert stored == wandb.runs[0].arguments["id"]


@pytest.mark.parametrize("what", ["init", "log", "finish"])
def test_wandb_out_of_reach_costs_the_view_and_not_the_run(
    what: str, tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CommError(Exception):
        """wandb's own errors are no OSErrors."""

    def fail(*_: Any, **__: Any) -> None:
        raise CommError("no route to api.wandb.ai")

    init = wandb.init

    def begin(**arguments: Any) -> SimpleNamespace:
        run = init(**arguments)
        setattr(run, what, fail)
        return run

    monkeypatch.setattr(wandb, "init", fail if what == "init" else begin)
    said: list[str] = []
    with MetricsLogger(tmp_path, logger="wandb", warn=said.append) as logger:
        for step in (1, 2):
            logger.log(step, {"loss/value": 1.0})
    (warning,) = said
    assert "Weights & Biases can no longer be written (no route to api.wandb.ai)" in warning
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2


def test_a_missing_wandb_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    check_logger("tensorboard")
    with pytest.raises(ConfigError, match=r"pip install 'fwp-rl\[wandb\]'"):
        check_logger("wandb")
