"""What the JSON files of runs and policies hold, with strict types: no truth value is a number, no
number a string, nothing is infinite. Whoever has read a file through these may rely on it."""

import math
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    ValidationError,
    model_validator,
)

from fwp_rl.registry import named, shown
from fwp_rl.runs.files import PLAIN_NAME, CheckpointError

__all__ = [
    "CheckpointAbout",
    "CheckpointState",
    "Evaluation",
    "Manifest",
    "ManifestEntry",
    "OptimizerState",
    "SavedConfig",
    "Strict",
    "TaskResult",
    "TaskSize",
    "checked",
]

MOST_OBSERVED = 1 << 22
"""Numbers in an observation of a saved policy; loading computes with eight observations."""


def _plain(name: str) -> str:
    if PLAIN_NAME.fullmatch(name) is None:
        raise ValueError("expected a plain file name")
    return name


def _digits(index: str) -> str:
    if not (index.isascii() and index.isdigit() and len(index) <= 9):
        raise ValueError("expected a parameter's number")
    return index


def _stepped(metadata: dict[str, Any]) -> dict[str, Any]:
    step = metadata.get("step")
    if step is not None and not (type(step) is int and 0 <= step < 2**63):
        raise ValueError(f"step: got {shown(step)}, expected a step")
    return metadata


Step = Annotated[int, Field(ge=0, lt=2**63)]
Size = Annotated[int, Field(ge=1, lt=2**31)]
PlainName = Annotated[str, AfterValidator(_plain)]
Index = Annotated[str, AfterValidator(_digits)]
Numbers = Annotated[list[float], FailFast()]
Metadata = Annotated[dict[str, Any], AfterValidator(_stepped)]
Scalar = bool | int | float | str | None


class Strict(BaseModel):
    """Types as they stand: no text for a number, no NaN."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class ManifestEntry(Strict):
    """What a manifest says of one file."""

    size: Annotated[int, Field(ge=0, lt=2**63)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Manifest(Strict):
    """``manifest.json`` of a sealed folder, without its schema and seal."""

    kind: str
    about: dict[str, Any] = {}
    files: dict[PlainName, ManifestEntry]


class CheckpointAbout(Strict):
    """What a checkpoint's manifest says of it."""

    step: Step
    score: float | None = None
    measure: Literal["training", "evaluation"] | None = None
    milestone: bool = False

    @model_validator(mode="after")
    def _measure_needs_a_score(self) -> "CheckpointAbout":
        if self.measure is not None and self.score is None:
            raise ValueError("score: is missing where measure is given")
        return self


class OptimizerGroup(Strict):
    """A parameter group; its hyper-parameters are its other fields."""

    model_config = ConfigDict(extra="allow")

    parameters: Annotated[int, Field(ge=0, lt=2**31)]


class OptimizerState(Strict):
    """What JSON holds of an optimizer."""

    name: Annotated[str, Field(alias="class")]
    parameters: Annotated[list[str], FailFast()]
    groups: Annotated[list[OptimizerGroup], FailFast()]
    values: dict[Index, dict[str, Scalar]]

    @model_validator(mode="after")
    def _groups_hold_all(self) -> "OptimizerState":
        held, known = sum(group.parameters for group in self.groups), len(self.parameters)
        if held != known:
            raise ValueError(f"groups: hold {held} parameters, {known} are named")
        beyond = [index for index in self.values if int(index) >= known]
        if beyond:
            raise ValueError(f"values: are of parameter {beyond[0]}, there are {known}")
        return self


class RunIdentity(Strict):
    """Whose checkpoint it is."""

    id: Annotated[str, Field(min_length=1, max_length=1000)]
    config: dict[str, Any]


class CheckpointState(Strict):
    """``state.json`` of a checkpoint; ``run`` is missing in those of schema 1, ``tracked`` where
    nothing is."""

    optimizer: OptimizerState
    state: dict[str, Any]
    run: RunIdentity | None = None
    tracked: dict[str, Any] = {}


class Spec(Strict):
    """An ``EnvSpec``."""

    name: Annotated[str, Field(max_length=1000)]
    observation_shape: Annotated[list[Size], FailFast(), Field(min_length=1, max_length=8)]
    num_actions: Size
    observation_dtype: Literal["uint8", "float32"] | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Spec":
        numbers = math.prod(self.observation_shape)
        if numbers > MOST_OBSERVED:
            raise ValueError(
                f"observation_shape: has {numbers:,} numbers, expected at most {MOST_OBSERVED:,}"
            )
        return self


class Probe(Strict):
    """What the network answered when it was saved."""

    logits: Numbers
    value: Numbers


class SavedConfig(Strict):
    """``config.json`` of a policy folder. ``policy``, ``env`` and ``actions`` are configs, checked
    as such. The oldest say neither which ``network`` it is nor which actions it plays: an
    actor-critic's, drawn."""

    network: str = "actor_critic"
    policy: dict[str, Any]
    actions: dict[str, Any] = {"name": "sampled"}
    spec: Spec
    env: dict[str, Any]
    metadata: Metadata
    probe: Probe


class EvaluationProtocol(Strict):
    """How the games of an evaluation were played."""

    name: str | None = None
    actions: str | None = None
    policy_actions: str = "sampled"
    """The policy's own rule, by which it is scored."""
    checkpoint: str | None = None
    games: int | None = None


class EvaluationSummary(Strict):
    """What came of them."""

    mean: float
    std_of_run_means: float | None = None


class Evaluation(Strict):
    """What a run's score needs of a file under ``evaluations/``."""

    step: Step | None = None
    created: str | None = None
    protocol: EvaluationProtocol
    summary: EvaluationSummary


class TaskSize(Strict):
    """Of a sequence task's network."""

    parameters: Annotated[int, Field(ge=0)]
    core_inputs: Annotated[int, Field(ge=1)] | None = None
    """Features of the core's input; None where the network has no core."""


class TaskResult(Strict):
    """``result.json``: what a run on a sequence task came to."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    task: str
    step: Step
    """Of the weights that were measured, those of the best validation."""
    steps: Step
    """That it was trained for."""
    stopped: Literal["steps", "solved", "patience", "time", "diverged"]
    seconds: Annotated[float, Field(ge=0)]
    measure: str
    score: float | None
    """The measure on the test split; None where it is no number."""
    validation: dict[str, float | None]
    test: dict[str, float | None]
    size: TaskSize


M = TypeVar("M", bound=BaseModel)


def checked(model: type[M], data: Any, source: object) -> M:
    """The data as the model has it, or a CheckpointError that names ``source`` and the field."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise CheckpointError(f"{source}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """The first problem, as ``field: got ..., expected ...``."""
    problem = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(named(part) for part in problem["loc"] if part != "[key]")
    if problem["type"] == "missing":
        return f"lacks {where}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if problem["type"] == "value_error" and not message.startswith("expected "):
        return f"{where}.{message}" if where else message
    return f"{where}: got {shown(problem['input'])}, expected {message.removeprefix('expected ')}"
