"""Where a run's curves can be looked at: TensorBoard's files, or Weights & Biases.

A view shows what the run directory holds besides; no result is read from it.
"""

import io
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer.record_writer import RecordWriter

from fwp_rl.config import ConfigError
from fwp_rl.runs.append import AppendedFile
from fwp_rl.runs.config import LoggerName
from fwp_rl.runs.files import CheckpointError, read_json, write_json

__all__ = ["View", "check_logger", "meaning", "open_view"]

_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)")

WANDB_FILE = "wandb.json"
"""Holds the id under which a resumed run goes on; no key is ever written."""


class View(Protocol):
    """What a logger can show. Steps are environment steps."""

    def scalars(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def text(self, name: str, markdown: str) -> None: ...

    def ended(self) -> None:
        """The run is over, and its last score is shown."""
        ...

    def clip(self, step: int, name: str, gif: Path) -> None:
        """Show an animated GIF."""
        ...

    def close(self) -> None: ...


def check_logger(logger: LoggerName) -> None:
    """ConfigError where the logger's package is missing, or nobody is logged in; whoever sits at a
    terminal is asked to."""
    if logger != "wandb":
        return
    wandb = _import_wandb()
    if os.environ.get("WANDB_MODE", "online") != "online":
        return
    try:
        wandb.login(verify=False)  # a server out of reach is no reason to refuse
    except Exception as error:
        raise ConfigError(
            f"logger: got 'wandb', which says: {error} WANDB_MODE=offline takes no login; or use "
            "--logger tensorboard"
        ) from error


def open_view(
    logger: LoggerName,
    directory: Path,
    *,
    start_step: int = 0,
    config: Mapping[str, Any] | None = None,
    experiment: Mapping[str, Any] | None = None,
) -> View:
    """Open a run's view, to go on after ``start_step``.

    config      is shown as a text
    experiment  what tells the run from others, by name: its row in TensorBoard's table of
                hyper-parameters
    """
    if logger == "wandb":
        return _Wandb(directory, config)
    view = _EventFile(directory, start_step)
    if config is not None:
        listing = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        view.text("config", f"```yaml\n{listing}```")
    if experiment is not None:
        view.hyper_parameters(experiment)
    return view


_MEANINGS = {
    "charts/episode_return": "Mean return of the latest finished blocks of games: the same number "
    "of whole games of every environment, raw reward",
    "charts/episode_length": "Mean length in steps of the latest finished blocks of games: the "
    "same number of whole games of every environment",
    "charts/success_rate": "Share of the latest finished blocks of games that reached the goal: "
    "the same number of whole games of every environment",
    "charts/games": "Games finished so far",
    "charts/steps_per_second": "Steps per second since the last point",
    "core/beta_mean": "Mean write rate of the fast weights",
    "core/beta_std": "Standard deviation of the write rates over steps, layers and heads",
    r"core/fast_weight_norm_layer(\d+)": r"Frobenius norm of the fast weights of layer \1, "
    "the mean over environments and heads",
    "loss/policy": "Loss of the policy",
    "loss/value": "Loss of the value",
    "loss/mean": "Loss of the batch, the mean over the steps that count",
    "policy/entropy": "Entropy of the policy in nats",
    "policy/kl": "KL divergence from the policy that acted to the policy that learns",
    "policy/clip_fraction": "Share of steps whose ratio of probabilities was clipped",
    "policy/ratio_deviation": "Largest |ratio - 1| before the first update: 0 where the learner "
    "sees what the actor saw",
    "policy/epochs": "Passes over each rollout",
    "policy/epsilon": "Probability of an action at random",
    "policy/lag_mean": "Mean number of updates between the weights that acted and those that learn",
    "policy/lag_max": "Largest number of updates between the weights that acted and those that "
    "learn",
    "optimizer/learning_rate": "Learning rate",
    "optimizer/gradient_norm": "Norm of the gradient before clipping",
    "value/q_mean": "Mean value of the actions that were played",
    "value/q_deviation": "Largest difference of a value from the actor's, over 1 + |value|, before "
    "the first update: 0 where the learner sees what the actor saw",
    "value/explained_variance": "Share of the targets' variance that the value explains; at most 1",
    "evaluation/mean_return": "Mean return of an evaluation: whole games of environments of its "
    "own",
    "evaluation/interval_low": "Lower end of the 95 % interval of the evaluation's mean return",
    "evaluation/interval_high": "Upper end of the 95 % interval of the evaluation's mean return",
    "evaluation/success_rate": "Share of the evaluation's games that reached the goal",
    "task/accuracy": "Share of right answers in the batch",
    "task/bits_per_byte": "Cross-entropy of the batch in bits for each byte",
    "time/acting": "Share of the time in which the policy chooses actions",
    "time/environment": "Share of the time in which environments step",
    "time/learning": "Share of the time in which the learner updates",
    "time/data": "Share of the time in which batches are made",
    "time/waiting": "Share of the time in which the learner has no batch",
    "time/actor_waiting": "Share of the time in which actors have no free buffer",
    "validation/score": "The task's measure on the validation split; its best chooses the weights",
    r"validation/(\w+)": r"\1 on the validation split",
    "test/score": "The task's measure of the best weights on the test split",
}
"""What TensorBoard says of a curve: pattern of its name → text."""


def meaning(curve: str) -> str:
    """What is said of a curve; "" where nothing is known of it."""
    for pattern, text in _MEANINGS.items():
        if found := re.fullmatch(pattern, curve):
            return found.expand(text).replace("_", " ") if found.groups() else text
    return ""


class _EventFile:
    """TensorBoard's events, written at once and in this thread.

    SummaryWriter's own thread would hold points back, print a traceback on a full disk, and name
    the file by the clock: TensorBoard reads files in the order of their names, so that a clock set
    back would mix up a resumed run.
    """

    def __init__(self, directory: Path, start_step: int) -> None:
        """Tells TensorBoard to forget every point after ``start_step`` in the earlier files."""
        self._directory = directory
        self._step = start_step
        self._number = -1
        self._begin(start_step + 1)

    def _begin(self, step: int) -> None:
        """Open the next file, for points from this step on."""
        names = (_EVENT_FILE.match(path.name) for path in self._directory.iterdir())
        self._number = 1 + max([self._number, *(int(name[1]) for name in names if name)])
        self._file = AppendedFile(
            self._directory / f"events.out.tfevents.{self._number:010d}.fwp_rl"
        )
        self._described: set[str] = set()
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        values = []
        for name, value in metrics.items():
            values.append(Summary.Value(tag=name, simple_value=value))
            if name not in self._described and (text := meaning(name)):
                values[-1].metadata.summary_description = text
                values[-1].metadata.plugin_data.plugin_name = "scalars"
            self._described.add(name)
        self._add(Event(step=step, summary=Summary(value=values)))

    def text(self, name: str, markdown: str) -> None:
        plugin = SummaryMetadata.PluginData(plugin_name="text")
        tensor = TensorProto(
            dtype=DT_STRING,
            string_val=[markdown.encode()],
            tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
        )
        value = Summary.Value(
            tag=f"{name}/text_summary",
            metadata=SummaryMetadata(plugin_data=plugin),
            tensor=tensor,
        )
        self._add(Event(step=self._step, summary=Summary(value=[value])))

    def hyper_parameters(self, experiment: Mapping[str, Any]) -> None:
        """The run's row in the tab HPARAMS.

        TensorBoard finds the table's columns itself, in all runs that it shows. An EXPERIMENT_TAG
        would say them once for all, by the run that comes first, whose core may have other options.
        """
        start = HParamsPluginData()
        for name, value in experiment.items():
            field = start.session_start_info.hparams[name]
            if isinstance(value, bool):
                field.bool_value = value
            elif isinstance(value, (int, float)):
                field.number_value = value
            else:
                field.string_value = "none" if value is None else str(value)
        self._add_hparams(metadata.SESSION_START_INFO_TAG, start)

    def ended(self) -> None:
        end = HParamsPluginData()
        end.session_end_info.status = api_pb2.Status.Value("STATUS_SUCCESS")
        self._add_hparams(metadata.SESSION_END_INFO_TAG, end)

    def _add_hparams(self, tag: str, data: Any) -> None:
        value = Summary.Value(
            tag=tag,
            metadata=metadata.create_summary_metadata(data),
            tensor=metadata.NULL_TENSOR,
        )
        self._add(Event(step=self._step, summary=Summary(value=[value])))

    def clip(self, step: int, name: str, gif: Path) -> None:
        data = gif.read_bytes()
        width, height = (int.from_bytes(data[at : at + 2], "little") for at in (6, 8))
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=data)
        self._add(Event(step=step, summary=Summary(value=[Summary.Value(tag=name, image=image)])))

    def close(self) -> None:
        self._file.close()

    def _add(self, event: Event) -> None:
        if self._file.vanished():
            self._begin(event.step)
        self._write(event)

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        self._file.append(record.getvalue())


class _Wandb:
    """A run of Weights & Biases, in the project fwp_rl unless WANDB_PROJECT names another. It goes
    on under the id that the run directory holds. Who is logged in is W&B's own affair."""

    def __init__(self, directory: Path, config: Mapping[str, Any] | None) -> None:
        wandb = _import_wandb()
        file = directory / WANDB_FILE
        try:
            known = read_json(file).get("id")
        except (OSError, CheckpointError):
            known = None
        known = known if isinstance(known, str) else None
        arguments: dict[str, Any] = {} if known is None else {"id": known, "resume": "allow"}
        if config is not None:
            arguments["config"] = dict(config)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "fwp_rl",
            name=directory.resolve().name,
            dir=str(directory),
            **arguments,
        )
        self._wandb = wandb
        if known is None:
            write_json(file, {"id": self._run.id})
        # A run resumed from a checkpoint goes back a little, which W&B's own counter cannot.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **metrics})

    def text(self, name: str, markdown: str) -> None:
        self._run.summary[name] = markdown

    def ended(self) -> None:
        """Nothing is missing: W&B's own table has every run's config and last values."""

    def clip(self, step: int, name: str, gif: Path) -> None:
        self._run.log({"step": step, name: self._wandb.Video(str(gif), format="gif")})

    def close(self) -> None:
        self._run.finish()


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        reason = f"is not installed ({error})"
    except Exception as error:  # such as a protobuf that it cannot work with
        reason = f"cannot be imported ({type(error).__name__}: {error})"
    else:
        if hasattr(wandb, "init"):
            return wandb
        reason = "is not installed"  # a folder of this name, which it leaves behind, was imported
    raise ConfigError(
        f"logger: got 'wandb', but the package {reason}; pip install 'fwp-rl[wandb]', or use "
        "--logger tensorboard"
    )
