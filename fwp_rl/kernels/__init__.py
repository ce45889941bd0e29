"""Ops of fast weights, and a diagonal recurrence: pure functions of tensors with exact gradients.
They know nothing of modules, reinforcement learning or configs, and need torch, numpy and numba
alone."""

from fwp_rl.kernels.diagonal import diagonal
from fwp_rl.kernels.dispatch import (
    BACKENDS,
    BackendStatus,
    backend_status,
    numba_threading_layer,
    use_backend,
)
from fwp_rl.kernels.errors import BackendError
from fwp_rl.kernels.fast_lstm import fast_lstm
from fwp_rl.kernels.fast_rnn import fast_rnn
from fwp_rl.kernels.fast_weight import fast_weight
from fwp_rl.kernels.fast_weight_channels import fast_weight_channels
from fwp_rl.kernels.op import OPS
from fwp_rl.kernels.recurrent_delta import recurrent_delta
from fwp_rl.kernels.srwm import srwm

__all__ = [
    "BACKENDS",
    "BackendError",
    "BackendStatus",
    "OPS",
    "backend_status",
    "diagonal",
    "fast_lstm",
    "fast_rnn",
    "fast_weight",
    "fast_weight_channels",
    "numba_threading_layer",
    "recurrent_delta",
    "srwm",
    "use_backend",
]
