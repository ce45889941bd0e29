"""A run as training leaves it, and what a reader may make of it once it is damaged."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fwp_rl import agents
from fwp_rl.config import ConfigError
from fwp_rl.cores.rnn import LSTMConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.models.encoders import MLPConfig
from fwp_rl.models.policy import Policy, PolicyConfig
from fwp_rl.runs.checkpoint import (
    CheckpointError,
    best,
    load_checkpoint,
    newest_good,
    save_checkpoint,
)
from fwp_rl.runs.directory import RunDirectory, RunError
from fwp_rl.runs.files import write_json
from fwp_rl.runs.policy import load_saved, save_policy
from fwp_rl.runs.presets import config_to_dict
from fwp_rl.runs.results import score

__all__ = ["OLDER", "Weights", "check", "make_run", "weights_of"]

ENV = RecallConfig(num_cues=3, max_delay=5)
OLDER, NEWER = "checkpoints/step_000000000010", "checkpoints/step_000000000020"

Weights = dict[str, dict[str, Tensor]]
"""Of a run's policy and of its checkpoints: place → name → tensor."""


def make_run(path: Path) -> None:
    """A policy folder, two checkpoints, an evaluation, a config and a status."""
    config = agents.load_preset("recall")
    run = RunDirectory.create(path)
    run.write_config(config_to_dict(config))
    run.write_status("running", step=20, total=100)
    network = PolicyConfig(encoder=MLPConfig(hidden_sizes=(16,)), core=LSTMConfig(hidden_size=8))
    for step in (10, 20):
        torch.manual_seed(step)
        policy = Policy(network, ENV.spec())
        optimizer = torch.optim.Adam(policy.parameters())
        sum(p.sum() for p in policy.parameters()).backward()
        optimizer.step()
        save_checkpoint(
            run.checkpoints,
            step=step,
            policy=policy,
            optimizer=optimizer,
            state={"games": step, "recent": [[1.0, 5]] * 20},
            generators={"actions": torch.Generator()},
            run={"id": "a-run", "config": config_to_dict(config)},
            score=float(step),
            measure="training",
        )
        save_policy(run.policy, policy, env=ENV, metadata={"step": step, "agent": "ppo"})
    result = {
        "step": 20,
        "created": "2026-01-01",
        "protocol": {"actions": "sampled", "games": 30, "checkpoint": "last"},
        "summary": {"mean": 0.5},
    }
    write_json(run.evaluations / "a.json", result)


def weights_of(run: Path) -> Weights:
    """As they are while nothing is damaged."""
    found = {"policy": load_saved(run).policy.state_dict()}
    for place in (OLDER, NEWER):
        found[place] = load_checkpoint(run / place).policy
    return found


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the readers made of a damaged run."""

    refused: int
    """Readers that gave a line in place of what they read."""
    older: bool
    """The checkpoint before is resumed from."""


def check(run: Path, truth: Weights) -> Outcome:
    """Every reader gives what was saved, or refuses in one line; resuming finds a checkpoint."""
    said: list[str] = []
    checkpoint = newest_good(run / "checkpoints", warn=said.append)
    assert checkpoint is not None
    place = OLDER if checkpoint.step == 10 else NEWER
    assert (place == OLDER) == bool(said)
    same_weights(checkpoint.policy, truth[place])
    refused = 0
    for read in (_policy, _checkpoint, _best, _config, _status):
        try:
            read(run, truth)
        except (CheckpointError, ConfigError, RunError) as error:
            said.append(str(error))
            refused += 1
    for text in said:
        assert "\n" not in text, text[:2000]
        assert len(text) < 1500, text[:2000]
    found = score(RunDirectory(run))
    assert found is None or isinstance(found.mean, float)
    return Outcome(refused=refused, older=place == OLDER)


def _policy(run: Path, truth: Weights) -> None:
    same_weights(load_saved(run).policy.state_dict(), truth["policy"])


def _checkpoint(run: Path, truth: Weights) -> None:
    same_weights(load_saved(run / NEWER).policy.state_dict(), truth[NEWER])


def _best(run: Path, truth: Weights) -> None:
    path = best(run / "checkpoints")
    place = OLDER if path == run / OLDER else NEWER
    same_weights(load_checkpoint(path).policy, truth[place])


def _config(run: Path, truth: Weights) -> None:
    agents.load_preset(run / "config.yaml")


def _status(run: Path, truth: Weights) -> None:
    assert isinstance(RunDirectory(run).read_status(), dict)


def same_weights(ours: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    assert ours.keys() == saved.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == saved[name].dtype
        assert torch.equal(tensor, saved[name]), name
