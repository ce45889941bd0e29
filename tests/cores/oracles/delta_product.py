from typing import Any

from oracles.gated_delta_net import run

__all__ = ["OPTIONS", "run"]

OPTIONS: list[dict[str, Any]] = [
    {},
    {"updates": 3, "allow_negative_eigenvalues": False, "decay": False},
]
