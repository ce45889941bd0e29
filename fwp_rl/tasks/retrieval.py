"""Associative retrieval: what a memory holds, and whether it can correct what it holds.

Schlag et al., "Linear Transformers Are Secretly Fast Weight Programmers" (2021), section 6.1. A
sequence is L pairs of one of S keys and one of S values, then a query: which value did this key
have last?

    capacity     keys and values without replacement, L = S: does the memory hold S pairs?
    update_rule  with replacement, L = 2S, in evaluations S: a key's later value replaces its first

The answer is a vector y of S numbers, and the loss half its squared distance from the value's
one-hot vector: 0.5 for y = 0.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fwp_rl.config import ConfigError, Range
from fwp_rl.cores import CORES, CoreConfig
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.losses import StepLosses
from fwp_rl.tasks.base import TASKS, Split, Task, TaskBatch, TaskConfig
from fwp_rl.tasks.retrieval_model import CoreModel, FeatureName, PublishedModel, Rule
from fwp_rl.types import State

__all__ = ["RetrievalConfig", "RetrievalTask"]

Ints: TypeAlias = NDArray[np.int64]

EVALUATION_SEQUENCES = 20
EVALUATION_QUERIES = 200
"""Of a sequence, at most."""


@TASKS.register("retrieval")
@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(TaskConfig):
    """Associative retrieval, settings 1 and 2 of "Linear Transformers Are Secretly Fast Weight
    Programmers".

    What is examined is either the paper's model, which is a memory alone, or a core. The paper's
    has no place for a core: it goes with ``core: feedforward``, which has no memory either, and
    refuses any other.
    """

    setting: Literal["capacity", "update_rule"] = "capacity"
    """The paper's setting 1, capacity: each key once; or 2, update_rule: keys return with other
    values."""
    symbols: Annotated[int, Range(2, 2000)] = 20
    """S: the number of keys, and of values. The paper's are 20 to 600, and 20 to 200."""
    memory: Literal["published", "core"] | None = None
    """What is examined: the paper's model, or the core; none: the paper's model with the core
    feedforward, else the core."""
    feature_map: FeatureName | None = None
    """φ of the paper's model; softmax is attention over the pairs themselves. None: dpfp1."""
    favor_features: Annotated[int | None, Range(1, 4096)] = None
    """m of the feature map favor, whose φ is 2m long: 64, 128 or 512 in the paper. None: 64."""
    rule: Rule | None = None
    """How the paper's model writes. None: sum in the setting capacity, delta in update_rule;
    softmax has none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory == "core":
            self._check_core_alone("memory core")
        if self.favor_features is not None and self.phi != "favor":
            raise ConfigError(
                f"favor_features: got {self.favor_features} with feature_map {self.phi}, "
                "expected feature_map favor"
            )
        if self.rule is not None and self.phi == "softmax":
            raise ConfigError(
                f"rule: got {self.rule} with feature_map softmax, which keeps the pairs and writes "
                "by no rule; leave it out"
            )

    @property
    def phi(self) -> FeatureName:
        """φ of the paper's model, settled."""
        return self.feature_map or "dpfp1"

    @property
    def writes(self) -> Literal["sum", "delta", "attention"]:
        """The rule of the paper's model, settled."""
        if self.phi == "softmax":
            return "attention"
        return self.rule or ("sum" if self.setting == "capacity" else "delta")

    def title(self) -> str:
        return f"{super().title()}-{self.setting}-{self.symbols}"

    def score_bounds(self) -> tuple[float, float]:
        return 0.5, 0.0

    def open(self, seed: int, artifacts: Mapping[str, bytes] | None = None) -> "RetrievalTask":
        return RetrievalTask(self, seed)

    def examines_core(self, core: CoreConfig) -> bool:
        """Whether the model is the core's, not the paper's. ConfigError where it cannot be what is
        asked for."""
        without = isinstance(core, FeedforwardConfig)
        if self.memory == "core" or (self.memory is None and not without):
            self._check_core_alone(f"core {CORES.name_of(type(core))}")
            return True
        if not without:
            raise ConfigError(
                f"core: got {CORES.name_of(type(core))} with memory published, which is a memory "
                "alone and has no core; expected feedforward, or memory core"
            )
        return False

    def _check_core_alone(self, given: str) -> None:
        for name in ("feature_map", "favor_features", "rule"):
            if (value := getattr(self, name)) is not None:
                raise ConfigError(
                    f"{name}: got {value} with {given}, expected none: it is for memory published, "
                    "with the core feedforward"
                )


class RetrievalTask(Task):
    """Sequences of pairs, drawn anew for each step.

    An evaluation draws its 20 sequences anew as well, as the authors' does, by the seed and the
    weights: the same weights always see the same. Each of a sequence's distinct keys is asked for,
    the first 200 in their order.
    """

    measure: ClassVar[str] = "loss"
    higher_is_better: ClassVar[bool] = False

    def __init__(self, config: RetrievalConfig, seed: int) -> None:
        super().__init__(seed)
        self.config = config

    def model(self, core: CoreConfig) -> nn.Module:
        config = self.config
        if config.examines_core(core):
            return CoreModel(config.symbols, core)
        return PublishedModel(
            config.symbols,
            feature_map=config.phi,
            rule="delta" if config.writes == "delta" else "sum",
            favor_features=config.favor_features or 64,
        )

    def batch(self, step: int, size: int) -> TaskBatch:
        """Sequences as ``retrieval_model`` reads them, [L + 1, size]. The key at a random step is
        asked for, so that one which came often is asked for more often."""
        S = self.config.symbols
        length = S if self.config.setting == "capacity" else 2 * S
        draws = self.draws("batch", step)
        keys, values = self._pairs(draws, length, size)
        columns = np.arange(size)
        query = keys[draws.integers(length, size=size), columns]
        last = length - 1 - (keys == query)[::-1].argmax(0)
        steps = np.concatenate([S + S * values + keys, query[None]])
        target = np.zeros_like(steps)
        target[-1] = values[last, columns]
        mask, reset = np.zeros((2, *steps.shape), np.bool_)
        mask[-1], reset[0] = True, True
        return TaskBatch(
            input=torch.from_numpy(steps),
            target=torch.from_numpy(target),
            mask=torch.from_numpy(mask),
            reset=torch.from_numpy(reset),
        )

    def loss(self, model: nn.Module, batch: TaskBatch, state: State) -> tuple[StepLosses, State]:
        """One loss for each sequence, [1, B]."""
        answers, state = model(batch.input, state, batch.reset)
        target = batch.target[-1:]
        loss = _loss(answers.unsqueeze(0), target)
        with torch.no_grad():
            right = (answers.argmax(-1) == target).float()
        mask = batch.mask[-1:]
        return StepLosses(loss=loss, mask=mask, means={"task/accuracy": right}), state

    def evaluate(self, model: nn.Module, split: Split) -> Mapping[str, float]:
        """``loss``, the mean over all queries, and ``accuracy``, the share whose largest answer is
        the value."""
        weights = 0
        for parameter in model.parameters():
            weights = zlib.crc32(parameter.detach().cpu().numpy().tobytes(), weights)
        draws = self.draws(split, weights)
        S = self.config.symbols
        keys, values = self._pairs(draws, S, EVALUATION_SEQUENCES)
        asked, target = (
            torch.from_numpy(x).to(next(model.parameters()).device)
            for x in _last_values(keys, values, S)
        )
        pairs = torch.from_numpy(S + S * values + keys).to(asked.device)
        with torch.random.fork_rng(devices=[]):  # what the model draws, training does not miss
            torch.manual_seed(int(draws.integers(2**63)))
            answers = model.answers(pairs)  # type: ignore[operator]  # [B, S keys, S values]
        return {
            "loss": float(_loss(answers, target)[asked].double().mean()),
            "accuracy": float((answers.argmax(-1) == target)[asked].double().mean()),
        }

    def _pairs(self, draws: np.random.Generator, length: int, size: int) -> tuple[Ints, Ints]:
        """Keys and values, each [length, size]."""
        S = self.config.symbols
        if self.config.setting == "update_rule":
            keys, values = draws.integers(S, size=(2, length, size))
            return keys, values
        every = np.broadcast_to(np.arange(S)[:, None], (S, size))
        return draws.permuted(every, axis=0), draws.permuted(every, axis=0)


def _last_values(keys: Ints, values: Ints, symbols: int) -> tuple[NDArray[np.bool_], Ints]:
    """Which keys a sequence is asked for, [B, S], and the last value of each."""
    last = np.full((keys.shape[1], symbols), -1)
    columns = np.arange(keys.shape[1])
    for key, value in zip(keys, values, strict=True):
        last[columns, key] = value
    asked = last >= 0
    asked &= asked.cumsum(1) <= EVALUATION_QUERIES
    return asked, last.clip(0)


def _loss(answers: Tensor, target: Tensor) -> Tensor:
    """Half the squared distance of answers [..., S] from the one-hot vectors of values [...]."""
    error = answers - one_hot(target, answers.shape[-1])
    return error.square().sum(-1) / 2
