"""What a core costs, by one rule for all of them.

Multiply-adds of a step are those of matrix products, and one for each element of an elementwise
product, as torch executes one step of one environment on the reference backend. Sums, norms,
exponentials and gates' nonlinearities count nothing.
"""

import math
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from fwp_rl.cores.base import CoreConfig, build_core
from fwp_rl.kernels import use_backend

__all__ = ["Cost", "cost"]


class Cost(NamedTuple):
    """Of one core."""

    parameters: int
    state_floats: int
    """Numbers that it carries from step to step, for each environment."""
    multiply_adds: int
    """Of one step of one environment, forward."""


def cost(config: CoreConfig, input_size: int) -> Cost:
    """Counts on the meta device: nothing is computed."""
    core = build_core(config, input_size).to("meta")
    state = core.initial_state(1, "meta")
    x = torch.empty(1, 1, input_size, device="meta")
    reset = torch.empty(1, 1, dtype=torch.bool, device="meta")
    products = {torch.ops.aten.mul: _elementwise}
    counter = FlopCounterMode(display=False, custom_mapping=products)
    with torch.no_grad(), use_backend("reference"), counter:
        core(x, state, reset)
    return Cost(
        parameters=sum(p.numel() for p in core.parameters()),
        state_floats=sum(leaf.numel() for leaf in state),
        multiply_adds=counter.get_total_flops() // 2,
    )


def _elementwise(*_: Any, out_shape: torch.Size, **__: Any) -> int:
    return 2 * math.prod(out_shape)  # the counter has two operations for each multiply-add
