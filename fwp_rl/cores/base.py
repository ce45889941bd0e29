"""The recurrent contract that every core keeps, and the registry of cores.

    core.initial_state(batch_size, device) -> State
    core(x: [T, B, D], state, reset: bool [T, B]) -> (y: [T, B, core.output_size], state)

1. ``reset[t, b]``: x[t, b] is the first input of an episode; the state is replaced by the initial
   state *before* x[t, b] is used.
2. The state passed in is never changed, and gradients reach it.
3. One call with T steps equals T calls with one step.
4. Gradients flow through the whole unroll, unless ``gradient_horizon`` n cuts them: before the
   steps n, 2 n, ... of a call the state is a constant. Never before step 0: whether gradient
   reaches the initial state is the caller's choice. The released code of "Going Beyond Linear
   Transformers with Recurrent FWPs" (2021) cuts at every step, which is ``gradient_horizon=1``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from fwp_rl.config import Range, check_ranges
from fwp_rl.kernels.horizon import in_effect
from fwp_rl.registry import Registry
from fwp_rl.types import State

__all__ = [
    "CORES",
    "Core",
    "CoreConfig",
    "RecurrentCoreConfig",
    "build_core",
    "record",
    "recording",
]


@dataclass(frozen=True, kw_only=True)
class CoreConfig:
    """Base of the config of every core."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def build(self, input_size: int) -> "Core":
        """The core's module for inputs of ``input_size`` features."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class RecurrentCoreConfig(CoreConfig):
    """What every core with memory can be told."""

    gradient_horizon: Annotated[int | None, Range(1)] = None
    """Cut the gradient before every n-th step of an unroll: it reaches at most n - 1 steps back,
    half of that on average. 1 is the credit assignment of the authors' released RL code, none the
    whole unroll."""
    dropout: Annotated[float, Range(0, 0.99)] = 0.0
    """Share of the numbers that are set to 0 in learning, the others scaled up: of what a memory
    and a feed-forward part give, or what a recurrent net is given and gives. None while acting:
    what an agent learns from is then not what it acted by."""


CORES: Registry[CoreConfig] = Registry("core", "fwp_rl.cores")


class Core(nn.Module):
    """A core's module. Subclasses set ``output_size`` and define ``unroll`` and
    ``initial_state``; callers use ``forward``, which checks shapes and applies the horizon."""

    output_size: int
    cuts_gradients = False
    """Whether ``unroll`` keeps to the gradient horizon itself, in one call for all steps. Else
    ``forward`` calls it for a few steps at a time and detaches the state between them."""
    state_names: tuple[str, ...] = ()
    """What the leaves of the state are called in pictures, where they have names."""

    def __init__(self, config: CoreConfig, input_size: int) -> None:
        super().__init__()
        self.config = config
        self.input_size = input_size
        self.gradient_horizon: int | None = getattr(config, "gradient_horizon", None)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        """Zeros: the state at the start of an episode. float32 leaves ``[B, ...]``."""
        raise NotImplementedError

    def unroll(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        """All T steps, with gradients that are exact or, if it ``cuts_gradients``, end at the
        horizon."""
        raise NotImplementedError

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        """Run the core.

        x      [T, B, input_size]
        state  leaves [B, ...]; not changed
        reset  [T, B] bool
        returns y [T, B, output_size] and the state after the last step
        """
        if x.ndim != 3 or x.shape[-1] != self.input_size or x.shape[0] == 0:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected [T >= 1, B, {self.input_size}]"
            )
        if reset.shape != x.shape[:2] or reset.dtype != torch.bool:
            raise ValueError(
                f"reset is {reset.dtype} {tuple(reset.shape)}, expected bool {tuple(x.shape[:2])}"
            )
        horizon = in_effect(self.gradient_horizon)
        if self.cuts_gradients or horizon == 0 or horizon >= x.shape[0]:
            return self.unroll(x, state, reset)
        outputs = []
        for start in range(0, x.shape[0], horizon):
            if start:
                state = tuple(leaf.detach() for leaf in state)
            part = slice(start, start + horizon)
            y, state = self.unroll(x[part], state, reset[part])
            outputs.append(y)
        return torch.cat(outputs), state


def build_core(config: CoreConfig, input_size: int) -> Core:
    """The module of a core config, for inputs of ``input_size`` features."""
    return config.build(input_size)


_recorder: ContextVar[dict[str, list[Tensor]] | None] = ContextVar("recorder", default=None)


@contextmanager
def recording() -> Iterator[dict[str, list[Tensor]]]:
    """Collect what cores report while they run: name → one tensor per report, in layer order.

    Costs nothing outside the context: cores then hand nothing over.
    """
    records: dict[str, list[Tensor]] = {}
    token = _recorder.set(records)
    try:
        yield records
    finally:
        _recorder.reset(token)


def record(name: str, value: Tensor | Callable[[], Tensor]) -> None:
    """Report an inner quantity, such as ``beta`` [T, B, H] or ``fast_weight`` [B, H, V, K]; a
    function where it takes work to have it. Compiled and exported code reports nothing."""
    if torch.compiler.is_compiling():
        return
    records = _recorder.get()
    if records is None:
        return
    with torch.no_grad():
        value = value if isinstance(value, Tensor) else value()
    records.setdefault(name, []).append(value.detach())
