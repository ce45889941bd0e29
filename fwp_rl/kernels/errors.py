"""What the kernels raise beside Python's own errors."""

__all__ = ["BackendError"]


class BackendError(RuntimeError):
    """The backend that was asked for cannot run; the message says why."""
