"""Complex numbers as pairs: those of NumPy carry derivatives here."""

from functools import partial
from typing import Any

import numpy as np
from oracles.blocks import Array, Leaves, Weights, run_blocks

OPTIONS = [{}, {"state_size": 7, "min_radius": 0.5, "max_radius": 0.9, "max_phase": 1.0}]


def memory(p: Weights, config: Any, x: Array, state: Leaves) -> tuple[Array, Leaves]:
    ((re, im),) = state
    fade, angle = np.exp(-np.exp(p["log_rate"])), np.exp(p["log_angle"])
    B_re, B_im = np.split(p["encode.weight"], 2)
    C_re, minus_C_im = np.split(p["decode.weight"], 2, axis=1)
    scale = np.exp(p["log_scale"])
    turned_re = np.cos(angle) * re - np.sin(angle) * im
    turned_im = np.sin(angle) * re + np.cos(angle) * im
    re = fade * turned_re + scale * (B_re @ x)
    im = fade * turned_im + scale * (B_im @ x)
    a = C_re @ re + minus_C_im @ im + p["skip"] * x
    gelu = 0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
    return gelu, (np.array([re, im]),)


run = partial(run_blocks, memory=memory)
