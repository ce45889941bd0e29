"""No memory: the heads sit directly on the core's input, the authors' feed-forward baseline."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fwp_rl.cores.base import CORES, Core, CoreConfig
from fwp_rl.types import State

__all__ = ["FeedforwardConfig"]


@CORES.register("feedforward")
@dataclass(frozen=True, kw_only=True)
class FeedforwardConfig(CoreConfig):
    """No memory: the control. Passes its input on, has no parameters."""

    def build(self, input_size: int) -> Core:
        return _Feedforward(self, input_size)


class _Feedforward(Core):
    def __init__(self, config: FeedforwardConfig, input_size: int) -> None:
        super().__init__(config, input_size)
        self.output_size = input_size

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        return ()

    def unroll(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        return x, state
