"""Every random stream of a run, hashed from the run's seed.

Counting up from the seed would not do: run 1 and run 2 with 64 environments would share 63 of
their environment seeds, and so would not be independent runs.
"""

import hashlib

import torch

__all__ = ["derive_seed", "env_seeds", "seed_everything"]


def derive_seed(run_seed: int, stream: str) -> int:
    """A seed in [0, 2^63) for the named stream, such as ``"actions"`` or ``"minibatches"``."""
    return _hash(f"{run_seed}/{stream}") >> 1


def env_seeds(run_seed: int, count: int, *, stream: str) -> list[int]:
    """``count`` different environment seeds in [0, 2^31).

    stream  what they are for: ``"train"``, ``"evaluation"``, ``"resume-<step>-<session>"``; the
            seeds of two streams, or of two runs, have nothing to do with each other
    """
    seeds: dict[int, None] = {}
    index = 0
    while len(seeds) < count:
        seeds[_hash(f"{run_seed}/{stream}/{index}") >> 33] = None
        index += 1
    return list(seeds)


def seed_everything(run_seed: int) -> None:
    """Seed torch's global generators, CPU and CUDA. All other streams are explicit generators."""
    torch.manual_seed(derive_seed(run_seed, "torch"))


def _hash(text: str) -> int:
    """64 bits of SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
