"""What tasks over symbols share: the network, the loss, and accuracies.

    logits = Linear(core(embedding(symbol)))

The core is any of ``fwp_rl.cores``, as an agent has it.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fwp_rl.cores import CoreConfig, build_core
from fwp_rl.losses import StepLosses
from fwp_rl.tasks.base import Split, Task, TaskBatch
from fwp_rl.types import State

__all__ = ["SequenceModel", "SymbolTask", "accuracies"]


class SequenceModel(nn.Module):
    """A core between an embedding of symbols and logits over symbols."""

    def __init__(self, core: CoreConfig, *, inputs: int, outputs: int, embedding_size: int) -> None:
        """
        inputs   number of symbols that may be read
        outputs  number of symbols that may be answered
        """
        super().__init__()
        self.embedding = nn.Embedding(inputs, embedding_size)
        self.core = build_core(core, embedding_size)
        self.head = nn.Linear(self.core.output_size, outputs)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        """The core's state at the start of a sequence."""
        return self.core.initial_state(batch_size, device or self.head.weight.device)

    def features(self, symbols: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        """The core's outputs [T, B, output_size] for symbols [T, B], and its state after them."""
        y, state = self.core(self.embedding(symbols), state, reset)
        return y, state

    def forward(self, symbols: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        """Logits [T, B, outputs] for symbols [T, B], and the state after them."""
        y, state = self.features(symbols, state, reset)
        return self.head(y), state


class SymbolTask(Task):
    """A task that asks for symbols: subclasses say which, and make the sequences."""

    inputs: int
    """Number of symbols that are read."""
    outputs: int
    """Number of symbols that are answered."""
    embedding_size: int = 64

    @abstractmethod
    def batches(self, split: Split) -> Iterable[TaskBatch]:
        """The sequences of a split, in batches on the CPU."""

    def model(self, core: CoreConfig) -> nn.Module:
        return SequenceModel(
            core, inputs=self.inputs, outputs=self.outputs, embedding_size=self.embedding_size
        )

    def loss(self, model: nn.Module, batch: TaskBatch, state: State) -> tuple[StepLosses, State]:
        logits, state = model(batch.input, state, batch.reset)
        # where nothing is asked the target may be any symbol, even one that is no answer
        target = batch.target.masked_fill(~batch.mask, 0)
        loss = cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        loss = loss.unflatten(0, target.shape)
        with torch.no_grad():
            right = (logits.argmax(-1) == target).float()
            losses = StepLosses(loss=loss, mask=batch.mask, means={"task/accuracy": right})
        return losses, state

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        return accuracies(model, self.batches(split))


def accuracies(
    model: nn.Module,
    batches: Iterable[TaskBatch],
    some: Mapping[str, Callable[[TaskBatch], Tensor]] | None = None,
) -> dict[str, float]:
    """Of all sequences: ``accuracy``, the share of answers that are right; ``sequence_accuracy``,
    the share of sequences with every answer right; ``loss``, the mean cross-entropy of an answer in
    nats; and the accuracy of those answers alone that ``some`` names and picks, bool [T, B]."""
    asked = right = sequences = whole = 0
    of_some = {name: [0, 0] for name in some or ()}
    total = 0.0
    for batch, logits in predictions(model, batches):
        mask = batch.mask
        hit = (logits.argmax(-1) == batch.target) & mask
        target = batch.target.masked_fill(~mask, 0)
        loss = cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        total += float(loss.unflatten(0, mask.shape)[mask].double().sum())
        asked += int(mask.sum())
        right += int(hit.sum())
        whole += int((hit | ~mask).all(0).sum())
        sequences += mask.shape[1]
        for name, pick in (some or {}).items():
            picked = pick(batch) & mask
            of_some[name][0] += int((hit & picked).sum())
            of_some[name][1] += int(picked.sum())
    return {
        "accuracy": right / max(asked, 1),
        "sequence_accuracy": whole / max(sequences, 1),
        "loss": total / max(asked, 1),
        **{name: hits / max(count, 1) for name, (hits, count) in of_some.items()},
    }


def predictions(
    model: nn.Module, batches: Iterable[TaskBatch]
) -> Iterator[tuple[TaskBatch, Tensor]]:
    """Each batch, on the model's device, with its logits [T, B, outputs]."""
    device = next(model.parameters()).device
    for batch in batches:
        batch = batch.map(lambda x: x.to(device))
        state = model.initial_state(batch.reset.shape[1], device)  # type: ignore[operator]
        logits, _ = model(batch.input, state, batch.reset)
        yield batch, logits
