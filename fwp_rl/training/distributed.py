"""Where a learner of several processes would meet."""

from torch import nn

__all__ = ["average_gradients"]


def average_gradients(network: nn.Module) -> None:
    """Make the gradients those of all ranks' minibatches together. One process is one rank: there
    is nothing to do.

    Ranks would replace each gradient by its mean over them (an all-reduce between backward pass and
    clipping, so that all clip and step alike). For that to be the gradient of the whole, each rank
    has to divide its sum of losses by the mean over ranks of the steps that count, not by its own
    number of them: else the steps of a rank with many dummies weigh too much. A parameter without a
    gradient on one rank has to take part with zeros.
    """
