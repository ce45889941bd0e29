"""A training small enough to save at will, and ways to damage what it has saved."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fwp_rl.runs.checkpoint import Checkpoint, save_checkpoint
from fwp_rl.runs.files import write_folder

RUN = {"id": "a-run", "config": {"agent": "ppo", "seed": 3, "core": {"name": "lstm"}}}

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, eps=1e-5),
    "fused_adam": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.8, 0.9), amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, alpha=0.99, eps=0.01, momentum=0.5),
}


def network(seed: int = 0, hidden: int = 5) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 1))


class Trainer:
    """Draws from every kind of random stream that a run has."""

    def __init__(self, optimizer: str, seed: int) -> None:
        self.policy = network(seed)
        self.optimizer = OPTIMIZERS[optimizer](self.policy.parameters())
        self.generators = {"action": torch.Generator().manual_seed(seed)}
        self.numpy = np.random.default_rng(seed)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            x = torch.randn(8, 3) + torch.randn(8, 3, generator=self.generators["action"])
            target = torch.from_numpy(self.numpy.normal(size=(8, 1))).float()
            self.optimizer.zero_grad()
            ((self.policy(x) - target) ** 2).mean().backward()
            self.optimizer.step()

    def save(self, directory: Path, step: int, score: float | None = None, **more: Any) -> Path:
        measure = None if score is None else "training"
        arguments: dict[str, Any] = {
            "state": {"numpy": self.numpy.bit_generator.state, "count": np.int64(7)},
            "measure": measure,
            **more,
        }
        return save_checkpoint(
            directory,
            step=step,
            policy=self.policy,
            optimizer=self.optimizer,
            generators=self.generators,
            run=RUN,
            score=score,
            **arguments,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        checkpoint.restore(self.policy, self.optimizer, self.generators)
        self.numpy.bit_generator.state = checkpoint.state["numpy"]


def steps_in(directory: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in directory.iterdir())


def replace_bytes(path: Path, data: bytes) -> None:
    """As a process would that comes later: by a file of its own, not one of the same moment."""
    other = path.with_name("other")
    other.write_bytes(data)
    other.rename(path)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    replace_bytes(path, bytes(data))


def reseal(folder: Path, files: Mapping[str, bytes]) -> None:
    """Change files of a sealed folder, with a manifest that fits."""
    manifest = json.loads((folder / "manifest.json").read_text())
    whole = {name: (folder / name).read_bytes() for name in manifest["files"]}
    write_folder(folder, {**whole, **files}, kind=manifest["kind"], about=manifest["about"])
