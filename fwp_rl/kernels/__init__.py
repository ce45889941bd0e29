"""Fast-weight ops: pure functions of tensors with exact gradients. They know nothing of modules,
reinforcement learning or configs, and need torch, numpy and numba alone."""

from fwp_rl.kernels.dispatch import (
    BACKENDS,
    BackendError,
    BackendStatus,
    backend_status,
    numba_threading_layer,
    use_backend,
)
from fwp_rl.kernels.fast_weight import fast_weight

__all__ = [
    "BACKENDS",
    "BackendError",
    "BackendStatus",
    "backend_status",
    "fast_weight",
    "numba_threading_layer",
    "use_backend",
]
